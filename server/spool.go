package server

import (
	"io"
	"slices"
	"sync"
)

// spool passes on what is written to it, on a goroutine of its own, so that a writer
// never waits.
type spool struct {
	done chan struct{} // closed when nothing more is passed on

	mu     sync.Mutex // guards the following; a leaf
	more   sync.Cond
	chunks [][]byte
	ended  bool
	err    error // of the writer behind
}

func newSpool(w io.Writer) *spool {
	s := &spool{done: make(chan struct{})}
	s.more.L = &s.mu
	go s.run(w)
	return s
}

// Write implements io.Writer. An error is that of an earlier write.
func (s *spool) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.chunks = append(s.chunks, slices.Clone(b))
	s.more.Signal()
	return len(b), nil
}

// end waits until everything was passed on, and returns the first error.
func (s *spool) end() error {
	s.mu.Lock()
	s.ended = true
	s.more.Signal()
	s.mu.Unlock()
	<-s.done
	return s.err
}

func (s *spool) run(w io.Writer) {
	defer close(s.done)
	for b := s.next(); b != nil; b = s.next() {
		if _, err := w.Write(b); err != nil {
			s.mu.Lock()
			s.err, s.chunks = err, nil
			s.mu.Unlock()
			return
		}
	}
}

// next waits for data to pass on. It returns nil at the end.
func (s *spool) next() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.chunks) == 0 && !s.ended {
		s.more.Wait()
	}
	if len(s.chunks) == 0 {
		return nil
	}
	b := s.chunks[0]
	s.chunks[0] = nil
	s.chunks = s.chunks[1:]
	return b
}
