package inguest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want checks an errno; 0 is success.
func want(t *testing.T, what string, err error, errno unix.Errno) {
	t.Helper()
	if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
		t.Errorf("%s: %v, want %v", what, err, errno)
	}
}

func TestSharedMapping(t *testing.T) {
	path := filepath.Join(work(t), "f")
	must(t, os.WriteFile(path, make([]byte, 3*4096+100), 0o644))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 3*4096+100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if errors.Is(err, unix.ENODEV) {
		t.Skip("files are not cached here, so they can't be mapped")
	}
	must(t, err)
	copy(m[4090:], "across a page")
	copy(m[3*4096+90:], "tail")
	must(t, unix.Msync(m, unix.MS_SYNC))
	must(t, unix.Munmap(m))
	b, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Contains(b, []byte("across a page")) || !bytes.Contains(b, []byte("tail")) || len(b) != 3*4096+100 {
		t.Error("what was written to the mapping is not in the file")
	}
}

func TestCreateModes(t *testing.T) {
	dir := work(t)
	for _, mode := range []uint32{0, 0o444, 0o200, 0o755} {
		path := filepath.Join(dir, fmt.Sprintf("%o", mode))
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
		must(t, err)
		n, err := unix.Write(fd, []byte("data"))
		if n != 4 || err != nil {
			t.Errorf("write to a new file of mode %o: %d, %v", mode, n, err)
		}
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Mode&0o777 != mode&^0o022 && st.Mode&0o777 != mode {
			t.Errorf("mode %o becomes %o", mode, st.Mode&0o777)
		}
		must(t, unix.Close(fd))
		_, err = unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
		want(t, "O_EXCL of a file that is there", err, unix.EEXIST)
	}
}

func TestRenameFlags(t *testing.T) {
	dir := work(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.WriteFile(a, []byte("a"), 0o644))
	must(t, os.WriteFile(b, []byte("b"), 0o644))
	want(t, "RENAME_NOREPLACE", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE), unix.EEXIST)
	must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	if c, _ := os.ReadFile(a); string(c) != "b" {
		t.Errorf("after the exchange a holds %q", c)
	}
	if os.Geteuid() == 0 {
		err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, filepath.Join(dir, "c"), unix.RENAME_WHITEOUT)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error("RENAME_WHITEOUT:", err)
		}
		var st unix.Stat_t
		if err == nil && (unix.Lstat(a, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0) {
			t.Errorf("no whiteout is left: %+v", st)
		}
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "e"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "e", "x"), nil, 0o644))
	want(t, "rename over a full directory", unix.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")), unix.ENOTEMPTY)
	want(t, "rename of a directory over a file", unix.Rename(filepath.Join(dir, "d"), b), unix.ENOTDIR)
}

func TestRemovedDirectory(t *testing.T) {
	dir := filepath.Join(work(t), "d")
	must(t, os.Mkdir(dir, 0o755))
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, os.Remove(dir))
	var st unix.Stat_t
	want(t, "fstat of a removed directory", unix.Fstat(fd, &st), 0)
	_, err = unix.Openat(fd, "x", unix.O_CREAT|unix.O_RDWR, 0o644)
	want(t, "create in a removed directory", err, unix.ENOENT)
}

func TestLocks(t *testing.T) {
	path := filepath.Join(work(t), "f")
	must(t, os.WriteFile(path, make([]byte, 100), 0o644))
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	one, two := open(), open()
	must(t, unix.Flock(int(one.Fd()), unix.LOCK_EX))
	want(t, "flock that is held", unix.Flock(int(two.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EAGAIN)
	got := make(chan error)
	go func() { got <- unix.Flock(int(two.Fd()), unix.LOCK_EX) }()
	must(t, unix.Flock(int(one.Fd()), unix.LOCK_UN))
	must(t, <-got)
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	must(t, unix.FcntlFlock(one.Fd(), unix.F_OFD_SETLK, &lk))
	over := unix.Flock_t{Type: unix.F_RDLCK, Start: 19, Len: 1}
	want(t, "range that is locked", unix.FcntlFlock(two.Fd(), unix.F_OFD_SETLK, &over), unix.EAGAIN)
	beside := unix.Flock_t{Type: unix.F_WRLCK, Start: 20}
	must(t, unix.FcntlFlock(two.Fd(), unix.F_OFD_SETLK, &beside))
}

func TestHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(work(t), "f"))
	must(t, err)
	defer f.Close()
	const mib = 1 << 20
	_, err = f.WriteAt([]byte("end"), 4*mib)
	must(t, err)
	must(t, f.Sync())
	data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	must(t, err)
	if data == 0 || data > 4*mib {
		t.Errorf("data begins at %d", data)
	}
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*mib, 4096))
	b := make([]byte, 3)
	_, err = f.ReadAt(b, 4*mib)
	must(t, err)
	if string(b) != "\x00\x00\x00" {
		t.Errorf("a punched hole reads as %q", b)
	}
}

func TestCopyFileRange(t *testing.T) {
	dir := work(t)
	content := bytes.Repeat([]byte("0123456789"), 300_000)
	must(t, os.WriteFile(filepath.Join(dir, "a"), content, 0o644))
	a, err := os.Open(filepath.Join(dir, "a"))
	must(t, err)
	defer a.Close()
	b, err := os.Create(filepath.Join(dir, "b"))
	must(t, err)
	defer b.Close()
	for left := len(content); left > 0; {
		n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, left, 0)
		must(t, err)
		if n == 0 {
			t.Fatal("copy_file_range copies nothing")
		}
		left -= n
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "b")); !bytes.Equal(got, content) {
		t.Error("the copy differs")
	}
}

func TestBirthTimeAndFlags(t *testing.T) {
	path := filepath.Join(work(t), "f")
	must(t, os.WriteFile(path, nil, 0o644))
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME, &st))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var flags uint32
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_GETFLAGS, uintptr(unsafe.Pointer(&flags)))
	if errno != 0 && errno != unix.ENOTTY && errno != unix.EOPNOTSUPP {
		t.Error("FS_IOC_GETFLAGS:", errno)
	}
}

// TestStorm has several goroutines make, rename and remove files in one directory
// while others list it.
func TestStorm(t *testing.T) {
	dir := work(t)
	for i := range 200 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("stays%d", i)), nil, 0o644))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				a := filepath.Join(dir, fmt.Sprintf("w%d-%d", w, i))
				if err := os.WriteFile(a, []byte("x"), 0o600); err != nil {
					t.Error(err)
				}
				if err := os.Rename(a, a+"r"); err != nil {
					t.Error(err)
				}
				if err := os.Remove(a + "r"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 10 {
		entries, err := os.ReadDir(dir)
		must(t, err)
		stays := map[string]bool{}
		for _, e := range entries {
			if len(e.Name()) > 5 && e.Name()[:5] == "stays" {
				if stays[e.Name()] {
					t.Errorf("%s is listed twice", e.Name())
				}
				stays[e.Name()] = true
			}
		}
		if len(stays) != 200 {
			t.Errorf("%d of 200 names are listed", len(stays))
		}
	}
	wg.Wait()
}
