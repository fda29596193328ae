package vfs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// box is a directory whose files have the optional abilities.
type box struct {
	files [2]lockedFile
	tmp   memoryFile
	wakes bell
}

var born = time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)

func (*box) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o777, Btime: born}, nil
}

func (b *box) Lookup(_ context.Context, name string) (vfs.Node, error) {
	switch name {
	case "locked":
		return &b.files[0], nil
	case "also-locked":
		return &b.files[1], nil
	case "bell":
		return &b.wakes, nil
	case "many":
		return many(20_000), nil
	}
	return nil, fs.ErrNotExist
}

func (b *box) Tmpfile(context.Context, int, fs.FileMode) (vfs.Node, vfs.Handle, error) {
	return &b.tmp, nil, nil
}

// lockedFile has locks, ioctls and copies.
type lockedFile struct {
	vfs.Locks
	memoryFile
}

// memoryFile is a file of at most 4 KiB.
type memoryFile struct {
	mu   sync.Mutex
	data [4096]byte
	size int64
}

func (m *memoryFile) Attr(context.Context) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return vfs.Attr{Mode: 0o666, Size: m.size}, nil
}
func (m *memoryFile) SetAttr(context.Context, vfs.SetAttr) error { return nil }
func (m *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.data[min(off, m.size):m.size]), nil
}
func (m *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off+int64(len(p)) > int64(len(m.data)) {
		return 0, unix.EFBIG
	}
	m.size = max(m.size, off+int64(len(p)))
	return copy(m.data[off:], p), nil
}

// Ioctls: one gets a number doubled, one has no data, one is an error.
var (
	ioctlDouble = uint32(3<<30 | 8<<16 | 'g'<<8 | 1)
	ioctlPlain  = uint32('g'<<8 | 2)
	ioctlBroken = uint32('g'<<8 | 3)
)

func (f *lockedFile) Ioctl(_ context.Context, cmd uint32, arg uint64, in, out []byte) (int32, error) {
	switch cmd {
	case ioctlDouble:
		binary.NativeEndian.PutUint64(out, 2*binary.NativeEndian.Uint64(in))
		return 0, nil
	case ioctlPlain:
		return int32(arg), nil
	case ioctlBroken:
		return -5, nil
	}
	return 0, unix.ENOTTY
}

func (f *lockedFile) CopyFrom(_ context.Context, off int64, src vfs.Handle, srcOff, n int64) (int64, error) {
	b := make([]byte, n)
	k, err := src.(*lockedFile).ReadAt(b, srcOff)
	if err != nil {
		return 0, err
	}
	for i := range b { // so that the test sees who has copied
		b[i] ^= 'a' - 'A'
	}
	k, err = f.WriteAt(b[:k], off)
	return int64(k), err
}

// bell is ready after it was written to.
type bell struct {
	mu   sync.Mutex
	rung bool
	wake []func()
}

func (*bell) Attr(context.Context) (vfs.Attr, error)     { return vfs.Attr{Mode: 0o666}, nil }
func (*bell) SetAttr(context.Context, vfs.SetAttr) error { return nil }
func (*bell) ReadAt([]byte, int64) (int, error)          { return 0, nil }
func (b *bell) WriteAt(p []byte, _ int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rung = true
	for _, wake := range b.wake {
		wake()
	}
	b.wake = nil
	return len(p), nil
}
func (b *bell) Poll(_ context.Context, events uint32, wake func()) (uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung {
		return events & unix.POLLIN, nil
	}
	if wake != nil {
		b.wake = append(b.wake, wake)
	}
	return 0, nil
}

// many is a directory of so many names.
type many int

func (many) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: fs.ModeDir | 0o777}, nil }
func (many) Lookup(_ context.Context, name string) (vfs.Node, error) {
	n, err := strconv.Atoi(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	return number(n), nil
}
func (m many) ReadDirFrom(_ context.Context, pos uint64, add func(vfs.DirEntry, uint64) bool) error {
	for i := pos; i < uint64(m) && add(vfs.DirEntry{Name: strconv.Itoa(int(i)), Node: number(i)}, i+1); i++ {
	}
	return nil
}

type number int

func (number) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: 0o444}, nil }

func open(t *testing.T, name string, flags int) int {
	t.Helper()
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// ofd is a lock of an open file description: this process can have several that exclude each other.
func ofd(fd int, cmd int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind, Start: start, Len: length})
}

// TestLocksMounted: locks of both kinds exclude others, can be waited for and interrupted, and end with
// close(2).
func TestLocksMounted(t *testing.T) {
	file := filepath.Join(mounttest.Mount(t, "box"), "locked")
	a, b := open(t, file, unix.O_RDWR), open(t, file, unix.O_RDWR)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(ofd(a, unix.F_OFD_SETLK, unix.F_WRLCK, 10, 10))
	if err := ofd(b, unix.F_OFD_SETLK, unix.F_RDLCK, 19, 1); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a range that is locked: %v", err)
	}
	must(ofd(b, unix.F_OFD_SETLK, unix.F_RDLCK, 20, 0))
	got := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 0}
	must(unix.FcntlFlock(uintptr(b), unix.F_OFD_GETLK, &got))
	if got.Type != unix.F_WRLCK || got.Start != 10 || got.Len != 10 {
		t.Errorf("who is in the way: %+v", got)
	}
	must(unix.Flock(a, unix.LOCK_SH)) // has nothing to do with those
	must(unix.Flock(b, unix.LOCK_SH))
	if err := unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("flock: %v", err)
	}
	waited := make(chan error, 2)
	go func() { waited <- ofd(b, unix.F_OFD_SETLKW, unix.F_WRLCK, 0, 15) }()
	go func() { waited <- unix.Flock(b, unix.LOCK_EX) }()
	select {
	case err := <-waited:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(unix.Close(a)) // the cleanup's second close is of a number that is not open
	for range 2 {
		select {
		case err := <-waited:
			must(err)
		case <-time.After(20 * time.Second):
			t.Fatal("a lock is not got when the other owner has closed the file")
		}
	}
}

// TestIoctl: data and results go through; a negative result is no error number of the client's.
func TestIoctl(t *testing.T) {
	fd := open(t, filepath.Join(mounttest.Mount(t, "box"), "locked"), unix.O_RDWR)
	n := uint64(21)
	ioctl := func(cmd uint32, arg uintptr) (int, unix.Errno) {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), arg)
		return int(r), errno
	}
	if _, errno := ioctl(ioctlDouble, uintptr(unsafe.Pointer(&n))); errno != 0 || n != 42 {
		t.Errorf("%d, %v", n, errno)
	}
	if r, errno := ioctl(ioctlPlain, 7); errno != 0 || r != 7 {
		t.Errorf("a number: %d, %v", r, errno)
	}
	if _, errno := ioctl(ioctlBroken, 0); errno != unix.EIO {
		t.Errorf("a negative result: %v", errno)
	}
	if _, errno := ioctl(uint32('g'<<8|99), 0); errno != unix.ENOTTY {
		t.Errorf("a command that is not known: %v", errno)
	}
}

// TestCopyFrom: copy_file_range is done by the file system.
func TestCopyFrom(t *testing.T) {
	dir := mounttest.Mount(t, "box")
	from, to := open(t, filepath.Join(dir, "locked"), unix.O_RDWR), open(t, filepath.Join(dir, "also-locked"), unix.O_RDWR)
	if _, err := unix.Pwrite(from, []byte("Hello"), 0); err != nil {
		t.Fatal(err)
	}
	off, dst := int64(1), int64(0)
	n, err := unix.CopyFileRange(from, &off, to, &dst, 4, 0)
	b := make([]byte, 10)
	if k, _ := unix.Pread(to, b, 0); err != nil || n != 4 || string(b[:k]) != "ELLO" {
		t.Errorf("%d, %v, %q", n, err, b)
	}
}

// TestTmpfile, and times of birth.
func TestTmpfile(t *testing.T) {
	dir := mounttest.Mount(t, "box")
	fd := open(t, dir, unix.O_TMPFILE|unix.O_RDWR)
	if _, err := unix.Pwrite(fd, []byte("nameless"), 0); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	if n, err := unix.Pread(fd, b, 0); string(b[:n]) != "nameless" {
		t.Errorf("%q, %v", b[:n], err)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 || st.Btime.Sec != born.Unix() || st.Btime.Nsec != 7 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME != 0 {
		t.Errorf("a time of birth that is not known: %+v, %v", st, err)
	}
}

// TestPoll: who waits is woken.
func TestPoll(t *testing.T) {
	fd := open(t, filepath.Join(mounttest.Mount(t, "box"), "bell"), unix.O_RDWR)
	poll := func(timeout int) (int, int16) {
		t.Helper()
		for {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
			n, err := unix.Poll(p, timeout)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			return n, p[0].Revents
		}
	}
	if n, _ := poll(0); n != 0 {
		t.Error("it is ready before it was rung")
	}
	woken := make(chan int16, 1)
	go func() {
		_, events := poll(20_000)
		woken <- events
	}()
	time.Sleep(20 * time.Millisecond) // so that it most likely waits
	if _, err := unix.Write(fd, []byte("!")); err != nil {
		t.Fatal(err)
	}
	if events := <-woken; events != unix.POLLIN {
		t.Errorf("woken with %#x", events)
	}
}

// TestStream: a directory that is listed in pieces, also from the middle and again.
func TestStream(t *testing.T) {
	dir := filepath.Join(mounttest.Mount(t, "box"), "many")
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		names, err := f.Readdirnames(-1)
		if err != nil || len(names) != 20_000 || names[0] != "0" || !slices.Contains(names, "19999") {
			t.Errorf("%d names, %v", len(names), err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := vfs.ReadDir(t.Context(), many(10)); len(list) != 10 || err != nil {
		t.Errorf("the whole list: %d, %v", len(list), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "17")); err != nil {
		t.Error(err)
	}
	if list, err := vfs.ReadDir(t.Context(), many(2_000_000)); list != nil || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("a list that is too long: %d, %v", len(list), err)
	}
}
