package frontend_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

const (
	windowSize = 1 << 20
	page       = 4096
)

// mapper is a device that only has a window.
type mapper struct {
	vu.NotImplemented
	attached chan *vu.SharedMemory
}

func (mapper) NumQueues() int                                   { return 2 }
func (mapper) MaxQueueSize() int                                { return 128 }
func (mapper) StartQueue(int, vu.Vring) error                   { return nil }
func (mapper) StopQueue(int) error                              { return nil }
func (mapper) Reset()                                           {}
func (mapper) SharedMemory() []uint64                           { return []uint64{windowSize} }
func (d mapper) AttachSharedMemory(_ uint8, s *vu.SharedMemory) { d.attached <- s }

// window connects a front-end with a window to a mapper.
func window(t *testing.T, opts frontend.WindowOptions) (*frontend.Frontend, *vu.SharedMemory, mapper) {
	t.Helper()
	d := mapper{attached: make(chan *vu.SharedMemory, 8)}
	back, front := socketpair.New(t)
	served := make(chan error, 1)
	go func() { served <- vu.NewConn(back, d, slog.New(slog.DiscardHandler)).Serve(context.Background()) }()
	f, err := frontend.Connect(front, frontend.Options{Window: &opts})
	if err != nil {
		t.Fatal(err)
	}
	w := f.Window
	t.Cleanup(func() {
		f.Close()
		<-served
		if err := w.Errors(); err != nil {
			t.Error(err)
		}
	})
	return f, <-d.attached, d
}

// file is a file of pages, each filled with its number.
func file(t *testing.T, pages int) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	for i := range pages {
		if _, err := f.Write(bytes.Repeat([]byte{byte(i + 1)}, page)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// wantByte checks a byte of the window; -1 is no memory.
func wantByte(t *testing.T, w *frontend.Window, off int64, want int) {
	t.Helper()
	b := []byte{0}
	_, err := w.ReadAt(b, off)
	switch {
	case want < 0 && !errors.Is(err, frontend.ErrFault):
		t.Errorf("offset %#x: %d, %v; want a fault", off, b[0], err)
	case want >= 0 && (err != nil || int(b[0]) != want):
		t.Errorf("offset %#x: %d, %v; want %d", off, b[0], err, want)
	}
}

func TestWindow(t *testing.T) {
	for _, memReg := range []bool{false, true} {
		f, s, _ := window(t, frontend.WindowOptions{MemReg: memReg, HonorFlags: true})
		w := f.Window
		data := file(t, 8)
		if w.Size() != windowSize || s.Size() != windowSize {
			t.Fatalf("sizes %#x, %#x", w.Size(), s.Size())
		}
		wantByte(t, w, 0, -1)
		if err := s.Map(int(data.Fd()), 2*page, 2*page, 3*page, true); err != nil {
			t.Fatal(err)
		}
		settle(f)
		wantByte(t, w, page, -1)
		wantByte(t, w, 2*page, 4)
		wantByte(t, w, 4*page-1, 5)
		wantByte(t, w, 4*page, -1)
		if _, err := w.WriteAt([]byte("new"), 2*page); err != nil {
			t.Error(err)
		}
		got := make([]byte, 3)
		if _, err := data.ReadAt(got, 3*page); err != nil || string(got) != "new" {
			t.Errorf("the file has %q, %v", got, err)
		}
		if err := s.Map(int(data.Fd()), 0, page, 0, false); err != nil {
			t.Fatal(err)
		}
		settle(f)
		if _, err := w.WriteAt([]byte("new"), 0); !errors.Is(err, frontend.ErrFault) {
			t.Errorf("write to a mapping for reading: %v", err)
		}
		if m := w.Mappings(); len(m) != 2 || m[0].Offset != 0 || m[1].Offset != 2*page || m[1].Flags != vu.SharedMemoryWritable {
			t.Errorf("%+v", m)
		}
		if err := s.Unmap(2*page, 2*page); err != nil {
			t.Error(err)
		}
		settle(f)
		wantByte(t, w, 2*page, -1)
		w.Reset()
		wantByte(t, w, 0, -1)
		if n := len(w.Mappings()); n != 0 || w.Maps.Load() != 2 || w.Unmaps.Load() != 2 {
			t.Errorf("%d mappings, %d, %d", n, w.Maps.Load(), w.Unmaps.Load())
		}
	}
}

// settle returns when the channel has done what it has answered: it holds the control
// lock until then.
func settle(f *frontend.Frontend) { _, _ = f.GetU64(vu.ReqGetFeatures) }

// TestWindowStrict asks for what QEMU refuses.
func TestWindowStrict(t *testing.T) {
	f, s, _ := window(t, frontend.WindowOptions{})
	data := file(t, 8)
	fd := int(data.Fd())
	short := file(t, 0)
	if _, err := short.WriteString("some bytes"); err != nil {
		t.Fatal(err)
	}
	if err := s.Map(fd, 4*page, 4*page, 0, true); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"past the end":        s.Map(fd, 0, page, 8*page, true),
		"across the end":      s.Map(fd, 0, 2*page, 7*page, true),
		"file part of a page": s.Map(int(short.Fd()), 0, page, 0, true),
		"wraps around":        s.Map(fd, 0, page, 1<<64-page, true),
		"file unaligned":      s.Map(fd, 0, page, 1, true),
		"unaligned":           s.Map(fd, 1, page, 0, true),
		"length":              s.Map(fd, 0, 1, 0, true),
		"over its begin":      s.Map(fd, 3*page, 2*page, 0, true),
		"over its end":        s.Map(fd, 7*page, 2*page, 0, true),
		"inside":              s.Map(fd, 5*page, page, 0, true),
		"around":              s.Map(fd, 3*page, 5*page, 0, true),
		"the same":            s.Map(fd, 4*page, 4*page, 0, true),
		"unmap a part":        s.Unmap(4*page, page),
		"unmap the end":       s.Unmap(5*page, 3*page),
		"unmap more":          s.Unmap(4*page, 5*page),
		"unmap nothing":       s.Unmap(0, page),
	} {
		if !errors.Is(err, vu.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := f.Window.Refused.Load(); n != 16 {
		t.Errorf("%d refused", n)
	}
	if n := len(f.Window.Mappings()); n != 1 {
		t.Errorf("%d mappings", n)
	}
	// QEMU maps for writing whatever it is asked for.
	readOnly, err := os.Open(data.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if err := s.Map(int(readOnly.Fd()), 0, page, 0, false); !errors.Is(err, vu.ErrRefused) {
		t.Errorf("a file that is open for reading: %v", err)
	}
	// QEMU makes an empty file as long as the mapping wants it.
	empty := file(t, 0)
	if err := s.Map(int(empty.Fd()), 0, page, page, true); err != nil {
		t.Error(err)
	}
	if st, _ := empty.Stat(); st.Size() != 2*page {
		t.Errorf("the file has %d bytes", st.Size())
	}
}

// TestWindowHooks delays, refuses and hangs up.
func TestWindowHooks(t *testing.T) {
	var front atomic.Pointer[frontend.Frontend]
	asked := make(chan vu.BackendRequest, 8)
	answers := make(chan error, 8)
	for _, err := range []error{nil, unix.ENOMEM, nil, frontend.ErrHangUp, nil} {
		answers <- err
	}
	f, s, d := window(t, frontend.WindowOptions{
		Before: func(r vu.BackendRequest, m vu.SharedMemoryMap) error {
			// A request of our own before the back-end's is served.
			if _, err := front.Load().GetU64(vu.ReqGetFeatures); err != nil {
				t.Error(err)
			}
			asked <- r
			return <-answers
		},
		After: func(vu.BackendRequest, vu.SharedMemoryMap) error {
			_, err := front.Load().GetU64(vu.ReqGetFeatures)
			return err
		},
	})
	front.Store(f)
	fd := int(file(t, 2).Fd())
	if err := s.Map(fd, 0, page, 0, true); err != nil {
		t.Error(err)
	}
	if err := s.Map(fd, page, page, 0, true); !errors.Is(err, vu.ErrRefused) {
		t.Error(err)
	}
	if err := s.Unmap(0, page); err != nil {
		t.Error(err)
	}
	if err := s.Map(fd, 0, page, 0, true); !errors.Is(err, vu.ErrDisconnected) {
		t.Error(err)
	}
	for i, want := range []vu.BackendRequest{vu.BackendShmemMap, vu.BackendShmemMap, vu.BackendShmemUnmap, vu.BackendShmemMap} {
		if got := <-asked; got != want {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
	}
	if err := f.Window.Reconnect(); err != nil {
		t.Fatal(err)
	}
	if s := <-d.attached; s != nil {
		t.Error("the old channel was not taken away")
	}
	if err := (<-d.attached).Map(fd, 0, page, page, true); err != nil {
		t.Error(err)
	}
	wantByte(t, f.Window, 0, 2)
}

// TestWindowPending has the answer come before the mapping.
func TestWindowPending(t *testing.T) {
	answered := make(chan struct{})
	f, s, _ := window(t, frontend.WindowOptions{MemReg: true, Pending: func() { <-answered }})
	if err := s.Map(int(file(t, 1).Fd()), 0, page, 0, true); err != nil {
		t.Fatal(err)
	}
	wantByte(t, f.Window, 0, -1)
	close(answered)
	settle(f)
	wantByte(t, f.Window, 0, 1)
}

// TestWindowTruncated reads where a file was and is no more.
func TestWindowTruncated(t *testing.T) {
	f, s, _ := window(t, frontend.WindowOptions{})
	data := file(t, 2)
	if err := s.Map(int(data.Fd()), 0, 2*page, 0, true); err != nil {
		t.Fatal(err)
	}
	if err := data.Truncate(page); err != nil {
		t.Fatal(err)
	}
	wantByte(t, f.Window, 0, 1)
	wantByte(t, f.Window, page, -1)
}
