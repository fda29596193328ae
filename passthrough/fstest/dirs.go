package fstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// entry is a name in a directory and the position after it.
type entry struct {
	name string
	off  int64
}

// getdents is one system call, with a buffer of size bytes.
func getdents(fd, size int) (list []entry, err error) {
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	for b := buf[:n]; len(b) > 0; {
		name, off, length := direntName(b)
		list = append(list, entry{name, off})
		b = b[length:]
	}
	return list, nil
}

// direntName reads the name and the cookie of the record at the front of b (struct
// linux_dirent64).
func direntName(b []byte) (name string, off int64, size int) {
	size = int(binary.NativeEndian.Uint16(b[16:]))
	raw := b[19:size]
	return string(raw[:bytes.IndexByte(raw, 0)]), int64(binary.NativeEndian.Uint64(b[8:])), size
}

// list reads a directory to its end from where fd is.
func (e *env) list(fd, size int) (all []entry) {
	e.Helper()
	for {
		list, err := getdents(fd, size)
		e.must(err)
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
}

func names(list []entry) (names []string) {
	for _, x := range list {
		names = append(names, x.name)
	}
	return names
}

func readdir(e *env) {
	want := []string{".", ".."}
	for i := range 200 {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("n", i))
		if i%3 == 0 {
			e.must(os.Mkdir(e.path(name), 0o755))
		} else {
			e.write(name, "")
		}
		want = append(want, name)
	}
	slices.Sort(want)
	fd := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for _, size := range []int{512, 4096, 1 << 20} {
		_, err := unix.Seek(fd, 0, unix.SEEK_SET)
		e.must(err)
		got := names(e.list(fd, size))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			e.Errorf("buffer of %d: %d names, want %d", size, len(got), len(want))
		}
	}
	// What is listed has the kind and the inode that stat says.
	list, err := os.ReadDir(e.dir)
	e.must(err)
	for _, d := range list {
		info, err := d.Info()
		e.must(err)
		if d.Type() != info.Mode().Type() {
			e.Errorf("%s is listed as %v and is %v", d.Name(), d.Type(), info.Mode().Type())
		}
	}
	e.write("late", "")
	if got := names(e.list(fd, 4096)); len(got) > 1 {
		e.Errorf("after the end: %v", got)
	}
	_, err = unix.Seek(fd, 0, unix.SEEK_SET)
	e.must(err)
	if got := names(e.list(fd, 4096)); !slices.Contains(got, "late") {
		e.Error("a new name is not seen after rewinddir")
	}
}

// readdirSeek goes back to positions that it was told.
func readdirSeek(e *env) {
	for i := range 500 {
		e.write(fmt.Sprintf("%050d", i), "")
	}
	fd := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	all := e.list(fd, 4096)
	for i := 0; i < len(all)-1; i += 37 {
		if _, err := unix.Seek(fd, all[i].off, unix.SEEK_SET); err != nil {
			e.Fatal(err)
		}
		if got, want := names(e.list(fd, 1000)), names(all[i+1:]); !slices.Equal(got, want) {
			e.Fatalf("after entry %d: %d names, want %d", i, len(got), len(want))
		}
	}
}

// readdirLarge lists thousands of names while others come and go.
func readdirLarge(e *env) {
	const count = 5_000
	dir := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for i := range count {
		e.must(unix.Mknodat(dir, fmt.Sprintf("stable-%d", i), unix.S_IFREG|0o644, 0))
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; !stop.Load(); i++ {
			_ = unix.Mknodat(dir, fmt.Sprintf("changing-%d", i%500), unix.S_IFREG|0o644, 0)
			_ = unix.Unlinkat(dir, fmt.Sprintf("changing-%d", (i+250)%500), 0)
		}
	}()
	for range 3 {
		fd := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		seen := map[string]int{}
		for _, x := range e.list(fd, 32<<10) {
			if strings.HasPrefix(x.name, "stable-") {
				seen[x.name]++
			}
		}
		if len(seen) != count {
			e.Errorf("%d names that were there all the time, want %d", len(seen), count)
		}
		for name, n := range seen {
			if n != 1 {
				e.Errorf("%s was listed %d times", name, n)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	for i := range count {
		e.must(unix.Unlinkat(dir, fmt.Sprintf("stable-%d", i), 0))
	}
}

// storm has several threads make, use, move and remove the same few names. Nothing may
// fail in a way that the races do not explain, and nothing may be left.
func storm(e *env) {
	e.must(os.MkdirAll(e.path("a"), 0o755))
	e.must(os.MkdirAll(e.path("b"), 0o755))
	name := func(i int) string { return e.path(fmt.Sprintf("%s/%d", []string{"a", "b"}[i%2], i%10)) }
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 400 {
				n := name(i * (worker + 1))
				switch i % 4 {
				case 0, 1:
					e.stormFile(n, worker)
				case 2:
					e.expect(os.Rename(n, name(i+1)), unix.ENOENT)
				case 3:
					e.expect(os.Remove(n), unix.ENOENT)
				}
			}
		}()
	}
	wg.Wait()
	for _, dir := range []string{"a", "b"} {
		e.must(os.RemoveAll(e.path(dir)))
		e.exists(dir, false)
	}
}

// stormFile writes to a file and reads it back, although it may lose its name and get
// another writer at any time.
func (e *env) stormFile(path string, worker int) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o644)
	if err != nil {
		e.expect(err, unix.ENOENT, unix.ESTALE)
		return
	}
	defer unix.Close(fd)
	// Each worker has its own place in the file.
	off, want := int64(worker*100), fmt.Sprintf("worker %d", worker)
	if _, err := unix.Pwrite(fd, []byte(want), off); err != nil {
		e.Errorf("write: %v", err)
	}
	buf := make([]byte, len(want))
	n, err := unix.Pread(fd, buf, off)
	if string(buf[:n]) != want && err == nil {
		// The client's kernel may have cut what it caches to a size that was right before the write: it takes the size of
		// a CREATE's reply as it is (fs/fuse/inode.c: fuse_iget without an attr_version). The file is right then.
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
		first := string(buf[:n])
		n, err = unix.Pread(fd, buf, off)
		e.Logf("read %q from the client's cache, and then %q from the file", first, buf[:n])
	}
	if string(buf[:n]) != want || err != nil {
		e.Errorf("read %q, %v, want %q", buf[:n], err, want)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		e.Errorf("fstat: %v", err)
	}
}

// expect fails the test for an error that is none of those.
func (e *env) expect(err error, errnos ...unix.Errno) {
	e.Helper()
	if err == nil {
		return
	}
	for _, errno := range errnos {
		if errors.Is(err, errno) {
			return
		}
	}
	e.Error(err)
}
