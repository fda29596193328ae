package server

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// semaphore is a number of tokens. Threads wait for one in a system call of their own:
// goroutines that are locked to threads and wait on a channel are woken by way of
// another thread of the Go scheduler, which takes two more switches.
type semaphore struct {
	tokens atomic.Uint32
}

const (
	futexWait    = 0
	futexWake    = 1
	futexPrivate = 128
)

// put adds a token and wakes one of those that wait.
func (s *semaphore) put() {
	s.tokens.Add(1)
	_, _, _ = unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.tokens)), futexWake|futexPrivate, 1)
}

// tryTake takes a token if there is one.
func (s *semaphore) tryTake() bool {
	for n := s.tokens.Load(); n > 0; n = s.tokens.Load() {
		if s.tokens.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// take waits for a token, at most so long; false means that there was none.
func (s *semaphore) take(atMost time.Duration) bool {
	end := time.Now().Add(atMost)
	for !s.tryTake() {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		timeout := unix.NsecToTimespec(left.Nanoseconds())
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.tokens)), futexWait|futexPrivate, 0,
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	}
	return true
}
