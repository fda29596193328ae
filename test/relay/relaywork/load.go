package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// depth is how many requests are under way.
const depth = 8

// load makes requests for a while, and prints how many were answered in a second, a line for each kind.
func load(dir string) error {
	for _, kind := range []struct {
		name string
		size int
	}{{"GETATTR", 0}, {"READ-4KiB", 4 << 10}, {"READ-128KiB", 128 << 10}} {
		n, err := rate(filepath.Join(dir, sample.Big), kind.size)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		fmt.Printf("%s %.0f\n", kind.name, n)
	}
	return nil
}

// rate is how many reads of size bytes, or GETATTR if that is 0, are done in a second.
func rate(path string, size int) (float64, error) {
	const span = time.Second
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var done atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, depth)
	start := time.Now()
	for i := range depth {
		wg.Go(func() {
			buf := aligned(max(size, 4096))
			var st unix.Statx_t
			for n := i; time.Since(start) < span; n += depth {
				var err error
				if size == 0 {
					err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
				} else {
					var got int
					if got, err = unix.Pread(fd, buf[:size], int64(n*size%(32<<20))); err == nil && got != size {
						err = fmt.Errorf("%d bytes", got)
					}
				}
				if err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(done.Load()) / time.Since(start).Seconds(), nil
	}
}

// aligned is memory for O_DIRECT.
func aligned(n int) []byte {
	b := make([]byte, n+os.Getpagesize())
	at := -int(uintptr(unsafe.Pointer(&b[0]))) & (os.Getpagesize() - 1)
	return b[at:][:n]
}
