package passthrough

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// Waits for a disk. To hand a request to another thread and back costs about 20 us and
// two wake-ups, and a guest that sends one request after the other gains nothing by it:
// a request that is alone waits on its queue's thread, if the wait will be short. Only
// for local disks: the server of a network file system may go away for minutes.

// quickDisk is how long a disk may take on average to be waited for.
const quickDisk = 400 * time.Microsecond

// slowDisk is the most that a wait for a read counts. So a disk that takes 100 us on average stays
// quick after one wait of milliseconds, which happens now and then, and is slow after the second
// one in a row. Otherwise some 20 requests would go to other threads each time.
const slowDisk = quickDisk * 5 / 4

// instant is the average below which there is nothing to wait for, as where files are in
// memory: to hand the request over takes longer, whatever else is under way.
const instant = 8 * time.Microsecond

// quickBytes is how much a request may move that waits on its queue's thread, and how
// much may have been written to a file since its last fsync for the next to be done there.
const quickBytes = 128 << 10

// diskTime is how long a kind of requests has waited on average, in ns; 0 when nothing
// is known. Slowness shows soon and is forgotten slowly.
type diskTime struct{ average atomic.Int64 }

// waited notes that a request has waited since began.
func (d *diskTime) waited(began time.Time) {
	d.took(time.Since(began))
}

// waitedToRead is waited for a read: a single slow read says little about the disk.
func (d *diskTime) waitedToRead(began time.Time) { d.tookToRead(time.Since(began)) }

// tookToRead is waitedToRead for a time that is known.
func (d *diskTime) tookToRead(wait time.Duration) { d.took(min(wait, slowDisk)) }

// took is waited for a time that is known.
func (d *diskTime) took(wait time.Duration) {
	took, past := int64(max(wait, 1)), d.average.Load()
	switch {
	case past == 0:
	case took > past:
		took = (took + past) / 2
	default:
		took = (took + 7*past) / 8
	}
	d.average.Store(took) // another thread's may get lost
}

// quick reports whether a wait is known to be short.
func (d *diskTime) quick() bool {
	wait := time.Duration(d.average.Load())
	return wait != 0 && wait < quickDisk
}

// mayWait reports whether a request may wait where it is for so many bytes, which take
// as long as d says: one that is alone, or for next to nothing.
func (m *mountInfo) mayWait(r *server.Request, d *diskTime, size int64) bool {
	if r.MayWait || !m.brief(d, size) {
		return r.MayWait
	}
	return d.average.Load() < int64(instant) || r.Thread.Alone != nil && r.Thread.Alone()
}

// brief reports whether a wait for so many bytes, which take as long as d says, is short.
func (m *mountInfo) brief(d *diskTime, size int64) bool {
	return m.local && size <= quickBytes && d.quick()
}

// wouldBlock is the errno of a read that the kernel has begun and that may not be waited for
// where it is.
func (m *mountInfo) wouldBlock(size int64) unix.Errno {
	if m.brief(&m.reads, size) {
		return server.WouldBlockBriefly
	}
	return server.WouldBlock
}
