package passthrough

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/ticks"
	"github.com/govirtiofs/govirtiofs/server"
)

// The successor of a process that died may have to serve a request a second time, because the
// client has not seen a reply. Most requests may simply run again. A request that would answer
// something else the second time, or change something twice, notes in its cell what it is about
// to do (intend), and the outcome (settle). When it is served again, it first examines the file
// system, in the functions of the files again*.go.
//
// Only another party on the host can make that ambiguous, by changing the same file or name
// between the two. Then: nothing is removed or replaced that is younger than the intent; an
// exclusive creation is not reported if the evidence says otherwise; and what is as the client
// wanted it is done.

// decider finds out for a request that is served again what a predecessor of this process has done of it.
type decider struct {
	cfg    *Config
	fds    *descriptors
	mounts *mountTable
	nodes  *nodeTable
	io     *ioState
	own    ownership

	recovery *recovery
	turns    turns
}

// fileTime is the clock that times of files are from, in ns, as it was less than a millisecond ago.
// It lags behind that of the process, by a tick or more: with that one a file could seem to be
// older than the request that made it. To read it is a system call, so it is not read each time. How long ago it was read
// is told by a counter of the processor: a look at another clock would cost a RENAME 1 %.
func (ts *threadState) fileTime() int64 {
	if now := ticks.Now(); now-ts.fileTimeRead >= ticks.Millisecond() || ts.fileTimeThen == 0 {
		ts.fileTimeRead = now
		ts.fileTimeThen = coarseTime()
	}
	return ts.fileTimeThen
}

func coarseTime() int64 {
	var t unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_REALTIME_COARSE, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

// intend notes that r is about to change something, and what is needed to find out later
// whether it has.
func intend(r *server.Request, e fuse.Evidence) {
	if r.Cell != nil {
		r.Cell.Intend(threadOf(r).fileTime(), e)
	}
}

// begin is intend where the evidence is only that it has come to that.
func begin(r *server.Request) { r.Cell.Begin() }

// settle notes what became of it: with an errno nothing was changed.
func settle(r *server.Request, errno unix.Errno) {
	if errno == 0 {
		r.Cell.Changed()
	} else {
		r.Cell.Unchanged()
	}
}

// past is what a predecessor has noted of r if it may have changed something; nil if not, or if
// there was none.
func past(r *server.Request) *server.Again {
	if a := r.Again; a != nil && a.Intended {
		return a
	}
	return nil
}

// farClock is how much the clocks of a file server and of this host may differ.
const farClock = 2 * time.Second

// since reports whether a time of a file is not before stamp. far says that the clock is another
// host's. Times may be rounded down: to a second, if they have no more, or to what
// file systems of other systems have, 100 ns to 10 ms.
func since(t unix.StatxTimestamp, stamp int64, far bool) bool {
	if far {
		stamp -= int64(farClock)
	}
	switch at := unixNano(t); {
	case t.Nsec == 0:
		return at >= stamp-stamp%int64(time.Second)-int64(time.Second) // FAT has even seconds only
	case t.Nsec%uint32(10*time.Millisecond) == 0:
		return at >= stamp-int64(10*time.Millisecond)
	default:
		return at >= stamp-int64(time.Microsecond)
	}
}

func unixNano(t unix.StatxTimestamp) int64 { return t.Sec*int64(time.Second) + int64(t.Nsec) }

// bornSince reports whether a file was made after stamp; where times of birth are not kept,
// whether it was changed since.
func (d *decider) bornSince(st *unix.Statx_t, stamp int64) bool {
	m := d.mounts.get(keyOf(st).onMount())
	far := m == nil || !m.local
	if st.Mask&unix.STATX_BTIME != 0 {
		return since(st.Btime, stamp, far)
	}
	return since(st.Ctime, stamp, far)
}

// Words of evidence about a file: which one it is, and whether there is one. An inode number may be
// another file's as soon as the file is gone, so the time of birth is looked at, too.
const (
	fileIno = iota
	fileBirth
	fileKnown
	fileWords
)

// evidenceOf is the evidence about a node's file; n may be nil.
func evidenceOf(n *inode) fuse.Evidence {
	if n == nil {
		return fuse.Evidence{}
	}
	return fuse.Evidence{fileIno: n.Key().ino, fileBirth: n.birth().word(), fileKnown: 1}
}

func (b birth) word() uint64 { return uint64(b.sec*int64(time.Second) + int64(b.nsec)) }

// sameFile reports whether a file is the one that two words of evidence say.
func sameFile(st *unix.Statx_t, ino, birth uint64) bool {
	return st.Ino == ino && birthOf(st).word() == birth
}
