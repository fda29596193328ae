package bench

import (
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// floorName is the floor's name in reports.
const floorName = "syscalls"

// floorFunc makes the system calls that an operation cannot do without, in a loop
// without anything around them: what a back-end costs above this is its own doing.
type floorFunc struct {
	batch   func() (units int, err error) // some operations
	between func() error                  // not measured; may be nil
	fds     []int
}

func (f floorFunc) close() {
	for _, fd := range f.fds {
		_ = unix.Close(fd)
	}
}

// measureFloor runs the loop for a while on one thread.
func measureFloor(f floorFunc, d time.Duration) (m Sample, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if d == 0 {
		d = 100 * time.Millisecond
	}
	for m.Wall < d {
		start, cpu := time.Now(), threadCPU()
		n, err := f.batch()
		m.CPU += threadCPU() - cpu
		m.Wall += time.Since(start)
		m.Units += uint64(n)
		if err == nil && f.between != nil {
			err = f.between()
		}
		if err != nil {
			return m, fmt.Errorf("%s: %w", floorName, err)
		}
	}
	return m, nil
}

// floorBatch is how many operations are made between two looks at the clock.
const floorBatch = 64

// loop makes a floorFunc of one operation.
func loop(op func(i int) error, fds ...int) floorFunc {
	i := 0
	return floorFunc{fds: fds, batch: func() (int, error) {
		for range floorBatch {
			i++
			if err := op(i); err != nil {
				return 0, err
			}
		}
		return floorBatch, nil
	}}
}

func openPath(f *files, name string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(f.path, name), flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	return fd, nil
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

func floorGetattr(f *files) (floorFunc, error) {
	var fds []int
	for i := range 64 {
		fd, err := openPath(f, "small/"+fileName(i), unix.O_PATH)
		if err != nil {
			floorFunc{fds: fds}.close()
			return floorFunc{}, err
		}
		fds = append(fds, fd)
	}
	var st unix.Statx_t
	return loop(func(i int) error { return unix.Statx(fds[i%64], "", unix.AT_EMPTY_PATH, statMask, &st) }, fds...), nil
}

func floorLookup(f *files) (floorFunc, error) {
	dir, err := openPath(f, "small", unix.O_PATH)
	list := names(smallFiles)
	var st unix.Statx_t
	return loop(func(i int) error {
		return unix.Statx(dir, list[i%len(list)], unix.AT_SYMLINK_NOFOLLOW, statMask, &st)
	}, dir), err
}

func floorLookupMissing(f *files) (floorFunc, error) {
	dir, err := openPath(f, "small", unix.O_PATH)
	var st unix.Statx_t
	return loop(func(int) error {
		if err := unix.Statx(dir, "no-such-file", unix.AT_SYMLINK_NOFOLLOW, statMask, &st); err != unix.ENOENT {
			return fmt.Errorf("statx of a missing file: %w", err)
		}
		return nil
	}, dir), err
}

// floorLookupNew opens and looks: a new node needs a descriptor or a file handle.
func floorLookupNew(f *files) (floorFunc, error) {
	dir, err := openPath(f, "many", unix.O_PATH)
	list := names(f.many)
	at := 0
	var held []int
	var st unix.Statx_t
	return floorFunc{fds: []int{dir}, batch: func() (int, error) {
		for range floorBatch {
			at++
			fd, err := unix.Openat(dir, list[at%len(list)], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			held = append(held, fd)
			if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
				return 0, err
			}
		}
		return floorBatch, nil
	}, between: func() error {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
		held = held[:0]
		return nil
	}}, err
}

func floorOpen(f *files) (floorFunc, error) {
	fd, err := openPath(f, "small/"+fileName(0), unix.O_PATH)
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	return loop(func(int) error {
		h, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(h)
	}, fd), err
}

func floorRead(size int, name string) func(*files) (floorFunc, error) {
	return func(f *files) (floorFunc, error) {
		fd, err := openPath(f, name, unix.O_RDONLY)
		length := int64(bigSize)
		if name == "cold" {
			length = f.cold
		}
		ff := transferLoop(fd, length, size, unix.Preadv2)
		if name == "cold" {
			ff.between = nil // batches are small: the cache is dropped once, below
			if err == nil {
				err = f.dropCache()
			}
		}
		return ff, err
	}
}

func floorWrite(size int) func(*files) (floorFunc, error) {
	return func(f *files) (floorFunc, error) {
		fd, err := openPath(f, "big", unix.O_RDWR)
		return transferLoop(fd, bigSize, size, unix.Pwritev2), err
	}
}

func transferLoop(fd int, length int64, size int, call func(int, [][]byte, int64, int) (int, error)) floorFunc {
	t := newTransfer(0, 0, length, size, 0, false)
	bufs := make([][]byte, 16) // several, as requests have several
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	one := make([][]byte, 1)
	return loop(func(i int) error {
		t.at = (t.at + t.step) % t.blocks
		one[0] = bufs[i%len(bufs)]
		n, err := call(fd, one, int64(t.at)*int64(size), 0)
		if err == nil && n != size {
			err = fmt.Errorf("%d of %d bytes", n, size)
		}
		return err
	}, fd)
}

func floorFsync(f *files) (floorFunc, error) {
	fd, err := openPath(f, "tmp/floor-sync", unix.O_RDWR|unix.O_CREAT)
	b := make([]byte, 4<<10)
	return floorFunc{fds: []int{fd}, batch: func() (int, error) {
		if _, err := unix.Pwrite(fd, b, 0); err != nil {
			return 0, err
		}
		return 1, unix.Fsync(fd)
	}}, err
}

// floorReaddirplus lists and looks at each name.
func floorReaddirplus(f *files) (floorFunc, error) {
	dir, err := openPath(f, "list", unix.O_RDONLY|unix.O_DIRECTORY)
	buf := make([]byte, 32<<10)
	list := names(listFiles)
	var st unix.Statx_t
	return floorFunc{fds: []int{dir}, batch: func() (int, error) {
		if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
			return 0, err
		}
		for {
			n, err := unix.Getdents(dir, buf)
			if err != nil {
				return 0, err
			}
			if n == 0 {
				break
			}
		}
		for _, name := range list {
			if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, statMask, &st); err != nil {
				return 0, err
			}
		}
		return len(list), nil
	}}, err
}

func floorCreate(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	var st unix.Statx_t
	return loop(func(int) error {
		fd, err := unix.Openat(dir, "floor-create", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
			return err
		}
		_ = unix.Close(fd)
		return unix.Unlinkat(dir, "floor-create", 0)
	}, dir), err
}

func floorMkdir(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	var st unix.Statx_t
	return loop(func(int) error {
		if err := unix.Mkdirat(dir, "floor-mkdir", 0o755); err != nil {
			return err
		}
		if err := unix.Statx(dir, "floor-mkdir", unix.AT_SYMLINK_NOFOLLOW, statMask, &st); err != nil {
			return err
		}
		return unix.Unlinkat(dir, "floor-mkdir", unix.AT_REMOVEDIR)
	}, dir), err
}

func floorRename(f *files) (floorFunc, error) {
	dir, err := openPath(f, "tmp", unix.O_PATH)
	if err == nil {
		var fd int
		fd, err = openPath(f, "tmp/floor-a", unix.O_RDWR|unix.O_CREAT)
		_ = unix.Close(fd)
	}
	from, to := "floor-a", "floor-b"
	return loop(func(int) error {
		err := unix.Renameat2(dir, from, dir, to, 0)
		from, to = to, from
		return err
	}, dir), err
}
