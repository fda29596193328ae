package fusedev

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/pause"
)

// With Options.Spin a goroutine of Serve that has answered a request looks for the next one for a while before it
// sleeps. A client that sends one request after the other then need not wake another processor up, which on
// an idle machine takes longer than most requests; in a virtual machine it takes an exit.
//
// It looks through a descriptor of its own with O_NONBLOCK, a clone: that is a property of the open file, so one descriptor can't
// be used in both ways, and an answer goes to the descriptor by which its request came. The kernel wakes a reader that sleeps for
// each request, whether or not another one has taken it. So spinning is of use if one goroutine serves.

const (
	// spinPauses pauses of the processor, of 40 to 140 cycles each, are between two looks.
	spinPauses = 8
	// spinYield is how often the processor is offered to other threads. They would have to wait for milliseconds: to the
	// kernel a thread that spins is busy.
	spinYield = 8 * time.Microsecond
	// A look that takes spinInterrupted or more has had another thread run.
	spinInterrupted = 10 * time.Microsecond
	// spinMostMisses misses in a row are followed by the longest pause, of 1<<spinMostMisses - 1 sleeps without a spin.
	spinMostMisses = 6
	// A goroutine that loses more than one part in spinCrowded of its spins to other threads, and spinMostLost on
	// top, keeps others from running. It rests for spinRest requests, and twice as many each time that it happens again within so
	// many spins. One spin counts for spinLostOnce at most: anything may happen once.
	spinCrowded  = 8
	spinMostLost = 500 * time.Microsecond
	spinLostOnce = 300 * time.Microsecond
	spinRest     = 256
	spinMostRest = 64 * spinRest
)

// spinner looks for requests. It belongs to one goroutine.
type spinner struct {
	fd     int // with O_NONBLOCK
	max    time.Duration
	misses int           // spins in a row without a request
	skip   int           // reads that are still to be without a spin
	rest   int           // how long the next rest is
	spins  int           // since the last one
	lost   time.Duration // of the spins to other threads, above the share that is usual
}

func newSpinner(fd int, max time.Duration) *spinner {
	return &spinner{fd: fd, max: max, rest: spinRest}
}

// read spins until there is a request. It returns false if the caller has to sleep until there is one.
func (s *spinner) read(b []byte) (n int, ok bool) {
	if s == nil {
		return 0, false
	}
	if s.skip > 0 {
		s.skip--
		return 0, false
	}
	var spent, lost, yielded time.Duration
	start := time.Now()
	look := func() {
		now := time.Since(start)
		if now-spent >= spinInterrupted {
			lost += now - spent
		}
		spent = now
	}
	for spent < s.max {
		n, errno := readNow(s.fd, b)
		if errno == 0 {
			look()
			s.learn(true, spent, lost)
			return n, true
		}
		if errno != unix.EAGAIN {
			return 0, false // the other descriptor has the same error, or it was for one request
		}
		pause.Loop(spinPauses)
		if look(); spent-yielded >= spinYield {
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			look()
			yielded = spent
		}
	}
	s.learn(false, spent, lost)
	return 0, false
}

// readNow reads a request if there is one. It does not wait, so Go's scheduler is not told.
func readNow(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// learn notes how a spin has ended. Other threads ran for lost of the time spent.
func (s *spinner) learn(found bool, spent, lost time.Duration) {
	s.spins++
	s.lost = max(0, s.lost+min(lost, spinLostOnce)-(spent-min(lost, spent))/spinCrowded)
	switch {
	case s.lost >= spinMostLost:
		if s.spins > spinMostRest {
			s.rest = spinRest
		}
		s.skip, s.spins, s.lost, s.misses = s.rest, 0, 0, 0
		s.rest = min(2*s.rest, spinMostRest)
	case found:
		s.misses = 0
	default:
		s.misses = min(s.misses+1, spinMostMisses)
		s.skip = 1<<s.misses - 1
	}
}
