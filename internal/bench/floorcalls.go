package bench

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Each function here has the fewest system calls that serve a workload's operation,
// and no others: no eventfd, no look at a ring.

func floorGetattr(f *files) (floorFunc, error) {
	const n = 64
	var fds []int
	for i := range n {
		fd, err := openPath(f, "small/"+fileName(i), unix.O_PATH)
		if err != nil {
			floorFunc{fds: fds}.close()
			return floorFunc{}, err
		}
		fds = append(fds, fd)
	}
	empty := cString("")
	var st unix.Statx_t
	return loop(func(i int) error { return rawStatx(fds[i%n], empty, unix.AT_EMPTY_PATH, &st) }, fds...), nil
}

func floorLookup(f *files) (floorFunc, error) {
	dir, err := openPath(f, "small", unix.O_PATH)
	list := cStrings(names(smallFiles))
	var st unix.Statx_t
	return loop(func(i int) error { return rawStatx(dir, list[i%len(list)], unix.AT_SYMLINK_NOFOLLOW, &st) }, dir), err
}

func floorLookupMissing(f *files) (floorFunc, error) {
	dir, err := openPath(f, "small", unix.O_PATH)
	name := cString("no-such-file")
	var st unix.Statx_t
	return loop(func(int) error {
		if err := rawStatx(dir, name, unix.AT_SYMLINK_NOFOLLOW, &st); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("statx of a missing file: %w", err)
		}
		return nil
	}, dir), err
}

// floorLookupNew makes openat and statx: a new node needs a descriptor or a file
// handle.
func floorLookupNew(f *files) (floorFunc, error) {
	dir, err := openPath(f, "many", unix.O_PATH)
	list, empty := cStrings(names(f.many)), cString("")
	held := make([]int, 0, floorBatch)
	var st unix.Statx_t
	one := func(i int) error {
		fd, err := rawOpenat(dir, list[i%len(list)], unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		held = append(held, fd)
		return rawStatx(fd, empty, unix.AT_EMPTY_PATH, &st)
	}
	ff := loop(one, dir)
	ff.between = func() error {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
		held = held[:0]
		return nil
	}
	return ff, err
}

func floorOpen(f *files) (floorFunc, error) {
	fd, err := openPath(f, "small/"+fileName(0), unix.O_PATH)
	self := cString(fmt.Sprintf("/proc/self/fd/%d", fd))
	return loop(func(int) error {
		h, err := rawOpenat(unix.AT_FDCWD, self, unix.O_RDONLY)
		if err != nil {
			return err
		}
		return rawClose(h)
	}, fd), err
}

func floorRead(size int, name string) func(*files) (floorFunc, error) {
	return func(f *files) (floorFunc, error) {
		fd, err := openPath(f, name, unix.O_RDONLY)
		if name != "cold" {
			return transferLoop(unix.SYS_PREADV2, fd, bigSize, size), err
		}
		return floorFunc{fds: []int{fd}, before: f.dropCache, thread: coldReads(fd, f.cold, size)}, err
	}
}

// coldReads goes through a file as the workload does, with all threads together.
func coldReads(fd int, length int64, size int) func() func(i int) error {
	t := newTransfer(0, 0, length, size, 0, false)
	return func() func(i int) error {
		b := make([]byte, size)
		return func(i int) error {
			off := uintptr(i*t.step%t.blocks) * uintptr(size)
			n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(size), off, 0, 0)
			if e == 0 && int(n) != size {
				return fmt.Errorf("%d of %d bytes", n, size)
			}
			return result(e)
		}
	}
}

func floorWrite(size int) func(*files) (floorFunc, error) {
	return func(f *files) (floorFunc, error) {
		fd, err := openPath(f, "big", unix.O_RDWR)
		return transferLoop(unix.SYS_PWRITEV2, fd, bigSize, size), err
	}
}

// transferLoop goes through a file as the workload does, with several buffers in turn:
// one alone would stay in the processor's cache.
func transferLoop(nr uintptr, fd int, length int64, size int) floorFunc {
	t := newTransfer(0, 0, length, size, 0, false)
	bufs := make([]byte, 8*size)
	return loop(func(i int) error {
		t.at = (t.at + t.step) % t.blocks
		b := bufs[i%8*size:][:size]
		return rawTransfer(nr, fd, b, int64(t.at)*int64(size))
	}, fd)
}

func floorFsync(f *files) (floorFunc, error) {
	fd, err := openPath(f, "tmp/floor-sync", unix.O_RDWR|unix.O_CREAT)
	b := make([]byte, 4<<10)
	return floorFunc{fds: []int{fd}, batch: func() (int, error) {
		if err := rawTransfer(unix.SYS_PWRITEV2, fd, b, 0); err != nil {
			return 0, err
		}
		return 1, unix.Fsync(fd)
	}}, err
}

// floorReaddirplus lists a directory and calls statx for each name.
func floorReaddirplus(f *files) (floorFunc, error) {
	dir, err := openPath(f, "list", unix.O_RDONLY|unix.O_DIRECTORY)
	buf := make([]byte, 32<<10)
	list := cStrings(names(listFiles))
	var st unix.Statx_t
	return floorFunc{fds: []int{dir}, batch: func() (int, error) {
		if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
			return 0, err
		}
		for n := uintptr(1); n > 0; {
			var e unix.Errno
			n, _, e = unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(dir), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
			if e != 0 {
				return 0, e
			}
		}
		for _, name := range list {
			if err := rawStatx(dir, name, unix.AT_SYMLINK_NOFOLLOW, &st); err != nil {
				return 0, err
			}
		}
		return len(list), nil
	}}, err
}

func floorCreate(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	name, empty := cString("floor-create"), cString("")
	var st unix.Statx_t
	return loop(func(int) error {
		fd, err := rawOpenat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		if err := rawStatx(fd, empty, unix.AT_EMPTY_PATH, &st); err != nil {
			return err
		}
		_ = rawClose(fd)
		return rawUnlinkat(dir, name, 0)
	}, dir), err
}

func floorMkdir(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	name := cString("floor-mkdir")
	var st unix.Statx_t
	return loop(func(int) error {
		if _, _, e := unix.RawSyscall(unix.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(name)), 0o755); e != 0 {
			return e
		}
		if err := rawStatx(dir, name, unix.AT_SYMLINK_NOFOLLOW, &st); err != nil {
			return err
		}
		return rawUnlinkat(dir, name, unix.AT_REMOVEDIR)
	}, dir), err
}

func floorRename(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	if err != nil {
		return floorFunc{}, err
	}
	fd, err := openPath(f, "tmp/floor-a", unix.O_RDWR|unix.O_CREAT)
	from, to := cString("floor-a"), cString("floor-b")
	return loop(func(int) error {
		_, _, e := unix.RawSyscall6(unix.SYS_RENAMEAT2, uintptr(dir), uintptr(unsafe.Pointer(from)), uintptr(dir), uintptr(unsafe.Pointer(to)), 0, 0)
		from, to = to, from
		return result(e)
	}, dir, fd), err
}
