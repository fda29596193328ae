package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// floorName is the floor's name in reports.
const floorName = "syscalls"

// floorFunc makes only the system calls that an operation needs, in a loop. The rest of a
// back-end's cost is its own work.
type floorFunc struct {
	batch   func() (units int, err error) // some operations
	before  func() error                  // before a round; not measured; may be nil
	between func() error                  // after each batch; not measured; may be nil
	// thread is used instead of batch for an operation that waits for a disk: it makes the
	// operation of one thread. There is a thread for each request under way.
	thread func() func(i int) error
	fds    []int
}

func (f floorFunc) close() {
	for _, fd := range f.fds {
		_ = unix.Close(fd)
	}
}

// measureFloor runs the loop for a while, on one thread or for so many requests at a time.
func measureFloor(ctx context.Context, f floorFunc, depth int, d time.Duration) (m Sample, err error) {
	if d == 0 {
		d = 10 * time.Millisecond
	}
	if f.before != nil {
		if err := f.before(); err != nil {
			return m, err
		}
	}
	if f.thread != nil {
		return f.parallel(ctx, depth, d)
	}
	return f.single(ctx, d)
}

// single runs the loop on one thread.
func (f floorFunc) single(ctx context.Context, d time.Duration) (m Sample, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for m.Wall < d && ctx.Err() == nil {
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

// parallel runs the loop on so many threads.
func (f floorFunc) parallel(ctx context.Context, threads int, d time.Duration) (Sample, error) {
	// Each thread waits in raw system calls, so Go's scheduler must let all threads run at
	// the same time (GOMAXPROCS).
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads + runtime.GOMAXPROCS(0)))
	var next, cpu atomic.Int64
	errs := make(chan error, threads)
	start := time.Now()
	for range threads {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			op, began := f.thread(), threadCPU()
			err := op(int(next.Add(1))) // one at least, however late the thread comes
			for err == nil && time.Since(start) < d && ctx.Err() == nil {
				err = op(int(next.Add(1)))
			}
			cpu.Add(int64(threadCPU() - began))
			errs <- err
		}()
	}
	var err error
	for range threads {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", floorName, err)
	}
	return Sample{Units: uint64(next.Load()), Wall: time.Since(start), CPU: time.Duration(cpu.Load())}, err
}

// floorBatch is the number of operations between two readings of the clock.
const floorBatch = 256

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

// openPath opens a prepared file, or makes one in tmp.
func openPath(f *files, name string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(f.path, name), flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	return fd, nil
}

// cString is a name as a system call takes it. The loops use raw system calls on such
// names because package unix copies each name to the heap, which a C loop would not.
func cString(name string) *byte {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		panic(err) // the names are ours
	}
	return p
}

func cStrings(list []string) (p []*byte) {
	for _, name := range list {
		p = append(p, cString(name))
	}
	return p
}

func result(e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

func rawStatx(dir int, name *byte, flags int, st *unix.Statx_t) error {
	_, _, e := unix.RawSyscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags), statMask,
		uintptr(unsafe.Pointer(st)), 0)
	return result(e)
}

func rawOpenat(dir int, name *byte, flags int) (int, error) {
	fd, _, e := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags|unix.O_CLOEXEC), 0o644, 0, 0)
	return int(fd), result(e)
}

func rawUnlinkat(dir int, name *byte, flags int) error {
	_, _, e := unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags))
	return result(e)
}

func rawClose(fd int) error {
	_, _, e := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return result(e)
}

// rawTransfer is preadv2 or pwritev2 of one buffer.
func rawTransfer(nr uintptr, fd int, b []byte, off int64) error {
	v := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	n, _, e := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&v)), 1, uintptr(off), 0, 0)
	if e == 0 && int(n) != len(b) {
		return fmt.Errorf("%d of %d bytes", n, len(b))
	}
	return result(e)
}
