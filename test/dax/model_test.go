package dax

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

const (
	page     = 4096
	rootNode = 1
	mostSize = 48 * page // of a file
	mostFile = 6         // files with a name
)

// file is a host file and what should be in it.
type file struct {
	id    int
	name  string   // empty when it has none any more
	data  []byte   // contents
	host  *os.File // keeps it alive without a name
	node  uint64   // as the guest knows it; 0 if it does not
	moved bool     // renamed by the host since the guest looked it up: the node may be stale
}

func (f *file) String() string {
	return fmt.Sprintf("file %d (%q, node %d, %#x bytes)", f.id, f.name, f.node, len(f.data))
}

// pages is how many pages have bytes of the file.
func (f *file) pages() int { return (len(f.data) + page - 1) / page }

// handle is an open file of the guest.
type handle struct {
	file  *file
	node  uint64
	fh    uint64
	write bool
}

// slot is the content of a page of the window; nothing, if the file is nil.
type slot struct {
	file  *file
	page  int
	write bool // asked for by the guest
}

// world is a share, a guest with a window, and the model of both.
type world struct {
	t       testing.TB
	r       *rand.Rand
	s       *share
	files   []*file
	lost    []*file // without a name, but possibly open or mapped
	handles []handle
	slots   []slot
	history []string
	ids     int
	buf     []byte
	counts  map[string]int
}

func newWorld(t testing.TB, s *share, r *rand.Rand) *world {
	// The daemon may use the last page to try what the front-end can do.
	return &world{t: t, s: s, r: r, slots: make([]slot, s.Window.Size()/page-1), buf: make([]byte, mostSize),
		counts: map[string]int{}}
}

// note keeps the last steps for the message of a failure.
func (w *world) note(format string, args ...any) {
	const kept = 60
	if len(w.history) >= 2*kept {
		w.history = slices.Clone(w.history[kept:])
	}
	w.history = append(w.history, fmt.Sprintf(format, args...))
}

// fail ends the test with the last steps.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.history {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// must fails on errors.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.s.dir, name) }

// pick is a random file, or nil.
func (w *world) pick() *file {
	if len(w.files) == 0 {
		return nil
	}
	return w.files[w.r.IntN(len(w.files))]
}

// random makes bytes; short ones are all alike, which is cheap.
func (w *world) random(n int) []byte {
	b := make([]byte, n)
	v := w.r.Uint64()
	for i := range b {
		b[i] = byte(v>>(8*(i%8))) ^ byte(i>>3)
	}
	return b
}

// spot is a random range that may end at or go over the limit most.
func (w *world) spot(most, longest int) (off, n int) {
	off = w.r.IntN(most)
	if w.r.IntN(3) == 0 {
		off &^= page - 1
	}
	return off, min(1+w.r.IntN(longest), most-off)
}

// write changes the model as a write does.
func (f *file) write(off int, b []byte) {
	f.resize(max(len(f.data), off+len(b)))
	copy(f.data[off:], b)
}

func (f *file) resize(n int) {
	if n <= len(f.data) {
		f.data = f.data[:n]
		return
	}
	f.data = append(f.data, make([]byte, n-len(f.data))...)
}

// drop takes a file's name away.
func (w *world) drop(f *file) {
	w.files = slices.DeleteFunc(w.files, func(o *file) bool { return o == f })
	f.name = ""
	w.lost = append(w.lost, f)
}

// sweep closes files without a name that are no longer open or mapped.
func (w *world) sweep() {
	w.lost = slices.DeleteFunc(w.lost, func(f *file) bool {
		used := slices.ContainsFunc(w.slots, func(s slot) bool { return s.file == f }) ||
			slices.ContainsFunc(w.handles, func(h handle) bool { return h.file == f })
		if !used {
			_ = f.host.Close()
		}
		return !used
	})
}

// checkSlot compares a page of the window with the model.
func (w *world) checkSlot(i int) {
	w.t.Helper()
	s := w.slots[i]
	var b [page]byte
	_, err := w.s.Window.ReadAt(b[:], int64(i*page))
	if s.file == nil || s.page >= s.file.pages() {
		if !errors.Is(err, frontend.ErrFault) {
			w.fail("page %d shows %v, page %d, but can be read: %v", i, s.file, s.page, err)
		}
		return
	}
	want := s.file.data[s.page*page : min(len(s.file.data), (s.page+1)*page)]
	if err != nil || !bytes.Equal(b[:len(want)], want) {
		w.fail("page %d of the window, page %d of %v: %v%s", i, s.page, s.file, err, difference(b[:len(want)], want))
	}
}

func difference(got, want []byte) string {
	for i := range want {
		if got[i] != want[i] {
			return fmt.Sprintf(" is %#x at byte %d, want %#x", got[i], i, want[i])
		}
	}
	return ""
}

// checkMappings compares the front-end's mappings with the model. The guest has
// asked for every mapping and has not removed it. A mapping that it asked to write
// to is writable.
func (w *world) checkMappings() {
	w.t.Helper()
	w.s.settle()
	mapped := make([]bool, len(w.slots))
	for _, m := range w.s.Window.Mappings() {
		if m.Offset == uint64(len(w.slots)*page) {
			continue
		}
		for i := m.Offset / page; i < (m.Offset+m.Length)/page; i++ {
			s := w.slots[i]
			if s.file == nil || uint64(s.page)*page != m.FileOffset+i*page-m.Offset {
				w.fail("page %d is mapped by %+v, but should be %+v", i, m, s)
			}
			if s.write && m.Flags&vu.SharedMemoryWritable == 0 {
				w.fail("page %d is mapped by %+v, but should be writable", i, m)
			}
			mapped[i] = true
		}
	}
	for i, s := range w.slots {
		if s.file != nil && !mapped[i] {
			w.fail("page %d is not mapped, but should be %+v", i, s)
		}
	}
}

// checkFile compares a file on the host.
func (w *world) checkFile(f *file) {
	w.t.Helper()
	var st unix.Stat_t
	w.must(unix.Fstat(int(f.host.Fd()), &st))
	n, _ := f.host.ReadAt(w.buf, 0)
	if int(st.Size) != len(f.data) || !bytes.Equal(w.buf[:n], f.data) {
		w.fail("%v has %#x bytes on the host%s", f, st.Size, difference(w.buf[:n], f.data))
	}
}

// checkAll compares all there is.
func (w *world) checkAll() {
	w.t.Helper()
	w.checkMappings()
	for i := range w.slots {
		w.checkSlot(i)
	}
	for _, f := range w.files {
		w.checkFile(f)
		w.checkNode(f)
	}
	for _, f := range w.lost {
		w.checkFile(f)
	}
	entries, err := os.ReadDir(w.s.dir)
	if err != nil || len(entries) != len(w.files) {
		w.fail("%d names on the host, want %d: %v", len(entries), len(w.files), err)
	}
	if err := w.s.Window.Errors(); err != nil {
		w.fail("front-end: %v", err)
	}
}

// checkNode reads a file as the guest does.
func (w *world) checkNode(f *file) {
	w.t.Helper()
	if f.node == 0 || f.moved {
		return
	}
	fh, err := w.s.Open(f.node, unix.O_RDONLY)
	if err != nil {
		w.fail("%v: open: %v", f, err)
	}
	b, err := w.s.Read(f.node, fh, 0, mostSize)
	if err != nil || !bytes.Equal(b, f.data) {
		w.fail("%v: READ of %#x bytes: %v%s", f, len(b), err, difference(b, f.data[:min(len(b), len(f.data))]))
	}
	w.must(w.s.Release(f.node, fh))
}
