package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// depth is how many requests are under way.
const depth = 8

// load makes requests of a kind for a while: reads of so many bytes, or GETATTR if that is 0. It prints how many were answered, and
// how many of them in a second.
func load(dir, kind string) error {
	size, err := strconv.Atoi(kind)
	if err != nil {
		return err
	}
	n, rate, err := requests(filepath.Join(dir, sample.Big), size)
	if err == nil {
		fmt.Printf("%d %.0f\n", n, rate)
	}
	return err
}

// requests are how many are done, and how many in a second.
func requests(path string, size int) (int64, float64, error) {
	const span = time.Second
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
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
		return 0, 0, err
	default:
		return done.Load(), float64(done.Load()) / time.Since(start).Seconds(), nil
	}
}

// aligned is memory for O_DIRECT.
func aligned(n int) []byte {
	b := make([]byte, n+os.Getpagesize())
	at := -int(uintptr(unsafe.Pointer(&b[0]))) & (os.Getpagesize() - 1)
	return b[at:][:n]
}
