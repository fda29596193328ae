package hostwatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInotifyGone: a directory that is removed makes room by itself, and Close ends an Add that comes later.
func TestInotifyGone(t *testing.T) {
	w := newWatcher(t, Options{Inotify: true})
	root := t.TempDir()
	if err := w.Add(open(t, root), 1); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		d := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(d, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(fd, uint64(i+2)); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd) // which keeps the directory
	}
	shell(t, root, "rmdir 0 1 2; : >end")
	until(t, w, "end")
	if w.Len() != 1 || w.Stale() {
		t.Errorf("%d directories are left, stale: %v", w.Len(), w.Stale())
	}
	_ = w.Close()
	if err := w.Add(open(t, root), 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := w.Read(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}

// TestInotifyMoves: both halves of a rename are one event, whatever is between them and wherever a read ends.
func TestInotifyMoves(t *testing.T) {
	w := newWatcher(t, Options{Inotify: true})
	root := t.TempDir()
	for i, d := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if d != "c" {
			if err := w.Add(open(t, filepath.Join(root, d)), uint64(i+1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const n = 100
	var all sync.WaitGroup
	all.Go(func() {
		shell(t, root, fmt.Sprintf(`for i in $(seq %d); do echo $i >a/f; mv a/f b/g; mv b/g c/g; mv c/g a/h; rm a/h; done; : >a/end`, n))
	})
	got := until(t, w, "end")
	all.Wait()
	moved := map[string]int{}
	for _, e := range got {
		moved[e]++
	}
	for _, e := range []string{"moved 1/f 2/g false", "moved 2/g 0/ false", "moved 0/ 1/h false"} {
		if moved[e] != n {
			t.Errorf("%d times %q of %d: %v", moved[e], e, n, moved)
		}
	}
}

// TestInotifyHalves: halves of renames that never end do not keep Read, or make it collect all of them.
func TestInotifyHalves(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	event := make([]byte, unix.SizeofInotifyEvent+16)
	binary.NativeEndian.PutUint32(event, 1)
	binary.NativeEndian.PutUint32(event[4:], unix.IN_MOVED_FROM)
	binary.NativeEndian.PutUint32(event[12:], 16)
	copy(event[16:], "name")
	var all sync.WaitGroup
	all.Go(func() {
		for b := bytes.Repeat(event, 2048); err == nil; {
			_, err = to.Write(b)
		}
	})
	w := &Watcher{file: from, buf: make([]byte, bufferSize), byID: map[uint64]string{1: watchKey(1)}, byFH: map[string]uint64{watchKey(1): 1}}
	w.inotify = &inotify{}
	got := make(chan int, 1)
	go func() {
		list, _ := w.Read(nil)
		got <- len(list)
	}()
	select {
	case n := <-got:
		if n == 0 || n > 2*maxBatch {
			t.Errorf("%d events with one Read", n)
		}
	case <-time.After(60 * time.Second):
		t.Error("Read does not return")
	}
	_ = from.Close()
	all.Wait()
	_ = to.Close()
}

// TestInotifyAgain: a directory is watched that gets another number while its old one is removed.
func TestInotifyAgain(t *testing.T) {
	w := newWatcher(t, Options{Inotify: true})
	root := t.TempDir()
	fd := open(t, root)
	if err := w.Add(fd, 1); err != nil {
		t.Fatal(err)
	}
	const last = 1000
	for id := uint64(1); id < last; id++ {
		var both sync.WaitGroup
		both.Go(func() { w.Remove(-1, id) })
		err := w.Add(fd, id+1)
		if both.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "end"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	until(t, w, "end")
}

// FuzzParseRaw: whatever is read makes no access out of bounds.
func FuzzParseRaw(f *testing.F) {
	event := make([]byte, unix.SizeofInotifyEvent+16)
	binary.NativeEndian.PutUint32(event, 1)
	binary.NativeEndian.PutUint32(event[4:], unix.IN_MOVED_FROM)
	binary.NativeEndian.PutUint32(event[8:], 7)
	binary.NativeEndian.PutUint32(event[12:], 16)
	copy(event[16:], "name")
	to := slices.Clone(event)
	binary.NativeEndian.PutUint32(to[4:], unix.IN_MOVED_TO)
	f.Add(append(event, to...))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &Watcher{byID: map[uint64]string{1: watchKey(1)}, byFH: map[string]uint64{watchKey(1): 1}}
		for _, e := range w.events(parseRaw(b, nil), nil) {
			if e.Op == 0 || e.Op != Overflow && e.Dir == 0 && e.NewDir == 0 {
				t.Errorf("event %+v", e)
			}
		}
	})
}
