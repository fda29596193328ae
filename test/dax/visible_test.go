package dax

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// TestVisible has a front-end that answers before the mapping is there, as QEMU does.
// The guest gets its reply when the mapping is there.
func TestVisible(t *testing.T) {
	s := openShare(t, frontend.WindowOptions{MemReg: true, Pending: func() { time.Sleep(3 * time.Millisecond) }})
	node := s.put("file", 16)
	for i := range uint64(30) {
		at := i % 8 * page
		if err := s.SetupMapping(node, anyHandle, i%16*page, page, at, forWriting); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := s.Window.ReadAt(b[:], int64(at)); err != nil || b[0] != byte(i%16+1) {
			t.Fatalf("mapping %d shows %d, %v", i, b[0], err)
		}
		if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Moffset: at, Len: page}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOwnRequestFirst has a front-end that serves no mapping before its own requests are
// served, and several guests' requests under way at once.
func TestOwnRequestFirst(t *testing.T) {
	var front atomic.Pointer[frontend.Frontend]
	s := openShare(t, frontend.WindowOptions{Before: func(vu.BackendRequest, vu.SharedMemoryMap) error {
		if f := front.Load(); f != nil {
			_, err := f.GetU64(vu.ReqGetFeatures)
			return err
		}
		return nil
	}})
	front.Store(s.Frontend)
	node := s.put("file", 64)
	var wg sync.WaitGroup
	for i := range uint64(16) {
		wg.Go(func() {
			if err := s.SetupMapping(node, anyHandle, i*page, page, i*page, forReading); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 16 {
		var b [1]byte
		if _, err := s.Window.ReadAt(b[:], int64(i*page)); err != nil || int(b[0]) != i+1 {
			t.Errorf("page %d shows %d, %v", i, b[0], err)
		}
	}
}

// TestFrontEndFails has a front-end that refuses a mapping, and one that disconnects
// half-way. The guest gets an error, and later mappings are right.
func TestFrontEndFails(t *testing.T) {
	for name, failure := range map[string]error{"refuses": unix.ENOMEM, "hangs up": frontend.ErrHangUp} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s before %v", name, before), func(t *testing.T) {
				var armed atomic.Bool
				hook := func(vu.BackendRequest, vu.SharedMemoryMap) error {
					if armed.CompareAndSwap(true, false) {
						return failure
					}
					return nil
				}
				opts := frontend.WindowOptions{After: hook}
				if before {
					opts = frontend.WindowOptions{Before: hook}
				}
				s := openShare(t, opts)
				s.probed()
				node := s.put("file", 16)
				armed.Store(true)
				if err := s.SetupMapping(node, anyHandle, 0, page, 0, forReading); err == nil {
					// The device has removed what was in the way, and has tried
					// again.
					if !errors.Is(failure, unix.ENOMEM) || before {
						t.Error("mapped")
					}
					if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Len: page}); err != nil {
						t.Error(err)
					}
				}
				if errors.Is(failure, frontend.ErrHangUp) {
					if err := s.Window.Reconnect(); err != nil {
						t.Fatal(err)
					}
				}
				// The front-end may have mapped something before its error. That must
				// not be in the way of a new mapping.
				if err := s.SetupMapping(node, anyHandle, 5*page, page, 0, forReading); err != nil {
					t.Fatal(err)
				}
				var b [1]byte
				if _, err := s.Window.ReadAt(b[:], 0); err != nil || b[0] != 6 {
					t.Errorf("shows %d, %v", b[0], err)
				}
			})
		}
	}
}

// probed returns when the device knows what the front-end can do.
func (s *share) probed() {
	if err := s.cfg.DAX.Table.Probe(s.cfg.DAX.Stretch == nil); err != nil { // after INIT's, or itself
		s.t.Fatal(err)
	}
	s.settle()
}

// TestTwoGuests has two front-ends map one file, with a daemon each: what one writes, the
// other one and the host see, and the other way round.
func TestTwoGuests(t *testing.T) {
	one := openShare(t, frontend.WindowOptions{})
	two := openShare(t, frontend.WindowOptions{MemReg: true}, func(s *share) { s.dir = one.dir })
	one.put("file", 2)
	host, err := os.OpenFile(filepath.Join(one.dir, "file"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, s := range []*share{one, two} {
		if err := s.SetupMapping(s.find("file"), anyHandle, page, page, 7*page, forWriting); err != nil {
			t.Fatal(err)
		}
	}
	two.settle()
	write := []func([]byte) (int, error){
		func(b []byte) (int, error) { return one.Window.WriteAt(b, 7*page+5) },
		func(b []byte) (int, error) { return two.Window.WriteAt(b, 7*page+5) },
		func(b []byte) (int, error) { return host.WriteAt(b, page+5) },
	}
	read := []func([]byte) (int, error){
		func(b []byte) (int, error) { return one.Window.ReadAt(b, 7*page+5) },
		func(b []byte) (int, error) { return two.Window.ReadAt(b, 7*page+5) },
		func(b []byte) (int, error) { return host.ReadAt(b, page+5) },
	}
	for i := range 3000 {
		want := fmt.Appendf(nil, "%08d", i)
		if _, err := write[i%3](want); err != nil {
			t.Fatal(err)
		}
		for who, f := range read {
			got := make([]byte, len(want))
			if _, err := f(got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("written by %d, seen by %d: %q, want %q, %v", i%3, who, got, want, err)
			}
		}
	}
}

// TestDirectIO copies data of one file directly from and to the mapping of another: the
// mapping is guest memory for the daemon.
func TestDirectIO(t *testing.T) {
	s := openShare(t, frontend.WindowOptions{MemReg: true}, func(s *share) { s.cfg.AllowDirectIO = true })
	from, to := s.put("from", 16), s.put("to", 16)
	fh := s.mustOpen(from, unix.O_RDWR)
	// These are more mappings than the memory regions that a back-end without
	// the window would accept.
	for i := range uint64(16) {
		if err := s.SetupMapping(to, anyHandle, i*page, page, 2*i*page, forWriting); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(16) {
		n, err := s.ReadToWindow(from, fh, (15-i)*page, page, 2*i*page)
		if err != nil || n != page {
			t.Fatalf("READ into mapping %d: %d, %v", i, n, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		if b[i*page] != byte(16-i) || b[(i+1)*page-1] != byte(16-i) {
			t.Errorf("page %d has %d", i, b[i*page])
		}
	}
	if n, err := s.WriteFromWindow(from, fh, 0, page, 0); err != nil || n != page {
		t.Fatalf("WRITE from a mapping: %d, %v", n, err)
	}
	if b, err := s.Read(from, fh, 0, 1); err != nil || b[0] != 16 {
		t.Errorf("written: %v, %v", b, err)
	}
	// Where nothing is mapped any more, there is no memory. The result is a bad
	// chain or EFAULT.
	if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Len: page}); err != nil {
		t.Fatal(err)
	}
	s.settle()
	if n, err := s.ReadToWindow(from, fh, 0, page, 0); err == nil && n > 0 {
		t.Errorf("READ into nothing: %d", n)
	}
	if _, err := s.Getattr(from); err != nil {
		t.Errorf("after it: %v", err)
	}
}
