package iofs

import (
	"container/list"
	"context"
	"io"
	"io/fs"
	"sync"
	"time"
)

const second = time.Second

// seeker reads at an offset by seeking there.
type seeker struct {
	mu   sync.Mutex
	file fs.File
	r    io.ReadSeeker
}

func (s *seeker) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.r.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s.r, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

func (s *seeker) Close() error { return s.file.Close() }

const (
	// windowSize is how much of a stream is kept: a client's read-ahead asks for parts of a file in
	// any order, and not far from each other.
	windowSize = 1 << 20
	// step is how much is read from a file at once.
	step = 64 << 10
	// defaultWindows is the default of Options.MaxWindows.
	defaultWindows = 64 << 20
)

// windows are the streams that have something in memory. The least recently used lose it.
type windows struct {
	mu    sync.Mutex // guards all; a leaf
	max   int64
	bytes int64
	lru   list.List // of *stream, the least recently used first
}

func newWindows(limit int64) *windows {
	if limit <= 0 {
		limit = defaultWindows
	}
	return &windows{max: max(limit, windowSize+step)}
}

// stream is a file that can be read from the start on only. What was read last is in ring.
type stream struct {
	node    file
	element *list.Element // in windows.lru; guarded by windows.mu
	size    int64         // that windows counts; guarded by windows.mu

	mu       sync.Mutex // guards the following
	source   fs.File    // nil if it has to be opened again
	low, pos int64      // the bytes of the file that ring has: from low to pos, where source is
	ring     []byte     // byte i of the file is at i % windowSize; it grows up to windowSize
	err      error      // with which source has ended
	closed   bool
}

func newStream(node file, source fs.File) *stream { return &stream{node: node, source: source} }

// Read implements vfs.Reader.
func (s *stream) Read(ctx context.Context, p []byte, off int64) (n int, err error) {
	defer s.node.windows.trim(s) // after s was unlocked
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fs.ErrClosed
	}
	for n < len(p) {
		at := off + int64(n)
		if at < s.low || s.source == nil {
			if err := s.restart(); err != nil {
				return n, err
			}
		}
		switch {
		case at < s.pos:
			n += s.copyOut(p[n:], at)
		case s.err != nil:
			return n, s.err
		case at-s.pos > windowSize && ctx.Err() != nil: // the way to at is long
			return n, ctx.Err()
		default:
			s.advance()
		}
	}
	return n, nil
}

// restart opens the file again.
func (s *stream) restart() error {
	source, err := s.node.fsys.Open(s.node.path)
	if err != nil {
		return err
	}
	if s.source != nil {
		_ = s.source.Close()
	}
	s.source, s.low, s.pos, s.err = source, 0, 0, nil
	return nil
}

// copyOut copies what the window has from at on, which it has.
func (s *stream) copyOut(p []byte, at int64) int {
	p = p[:min(int64(len(p)), s.pos-at)]
	n := copy(p, s.ring[at%windowSize:])
	return n + copy(p[n:], s.ring)
}

// maxEmpty is how often a Read may return nothing, and no error.
const maxEmpty = 100

// advance reads the next part into the window, over the oldest one.
func (s *stream) advance() {
	i := s.pos % windowSize
	end := min(i+step, windowSize)
	s.grow(end)
	s.low = max(s.low, s.pos+(end-i)-windowSize) // Read may use all of what it gets
	for range maxEmpty {
		n, err := s.source.Read(s.ring[i:end])
		if n < 0 || int64(n) > end-i {
			n, err = 0, errCount
		}
		s.pos, s.err = s.pos+int64(n), err
		if n > 0 || err != nil {
			return
		}
	}
	s.err = io.ErrNoProgress
}

// grow makes room for end bytes in the window.
func (s *stream) grow(end int64) {
	if int64(len(s.ring)) >= end {
		return
	}
	b := make([]byte, min(max(2*int64(len(s.ring)), end), windowSize))
	copy(b, s.ring)
	s.ring = b
	s.node.windows.count(s, int64(len(b)))
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.node.windows.drop(s)
	return s.lose()
}

// lose lets go of the window and of the file, which is opened again when it is needed. s is locked.
func (s *stream) lose() (err error) {
	if s.source != nil {
		err = s.source.Close()
	}
	s.ring, s.source = nil, nil
	return err
}

// count says that a stream, which is locked, has a window of so many bytes.
func (w *windows) count(s *stream, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += size - s.size
	s.size = size
	if s.element == nil {
		s.element = w.lru.PushBack(s)
	}
}

// trim says that a stream was used, and takes the windows of others away that are too many. Those
// that are in use are left: their users trim later.
func (w *windows) trim(used *stream) {
	for _, s := range w.losers(used) {
		_ = s.lose()
		s.mu.Unlock()
	}
}

// losers are the streams that have to lose their windows, locked.
func (w *windows) losers(used *stream) (list []*stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if used.element != nil {
		w.lru.MoveToBack(used.element)
	}
	for e := w.lru.Front(); e != nil && w.bytes > w.max; {
		s := e.Value.(*stream)
		e = e.Next()
		if s.mu.TryLock() {
			w.forget(s)
			list = append(list, s)
		}
	}
	return list
}

// forget takes a stream off the list. w is locked.
func (w *windows) forget(s *stream) {
	if s.element != nil {
		w.lru.Remove(s.element)
		s.element = nil
	}
	w.bytes -= s.size
	s.size = 0
}

// drop is forget for a stream that ends.
func (w *windows) drop(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(s)
}
