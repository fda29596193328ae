package passthrough

import (
	"math"

	"golang.org/x/sys/unix"
)

// lockRange is a lock that an owner holds on a part of a file.
type lockRange struct {
	start, end int64 // both included; math.MaxInt64 is whatever the file's length becomes
	exclusive  bool
}

// lockRanges are an owner's locks on a file: in order, without overlaps, neighbours of one
// kind joined. The kernel has the same list, and there is no call that reads it.
type lockRanges []lockRange

// set notes what a lock or unlock that has succeeded changed.
func (l lockRanges) set(lk *unix.Flock_t) lockRanges {
	n := rangeOf(lk)
	out := make(lockRanges, 0, len(l)+2)
	i := 0
	for ; i < len(l) && l[i].end < n.start; i++ {
		out = out.add(l[i])
	}
	rest := lockRange{start: -1}
	if i < len(l) && l[i].start < n.start {
		out = out.add(lockRange{l[i].start, n.start - 1, l[i].exclusive})
	}
	for ; i < len(l) && l[i].start <= n.end; i++ {
		if l[i].end > n.end { // n.end is not the largest number then
			rest = lockRange{n.end + 1, l[i].end, l[i].exclusive}
		}
	}
	if lk.Type != unix.F_UNLCK {
		out = out.add(n)
	}
	if rest.start >= 0 {
		out = out.add(rest)
	}
	for ; i < len(l); i++ {
		out = out.add(l[i])
	}
	return out
}

// add appends r, which lies behind all others, and joins it with the last one.
func (l lockRanges) add(r lockRange) lockRanges {
	if i := len(l) - 1; i >= 0 && l[i].exclusive == r.exclusive && l[i].end == r.start-1 {
		l[i].end = r.end
		return l
	}
	return append(l, r)
}

// rangeOf is what a request covers; its length 0 is up to the end.
func rangeOf(lk *unix.Flock_t) lockRange {
	r := lockRange{start: lk.Start, end: math.MaxInt64, exclusive: lk.Type == unix.F_WRLCK}
	if lk.Len > 0 {
		r.end = lk.Start + lk.Len - 1
	}
	return r
}

// flock is the request that takes the lock.
func (r lockRange) flock() *unix.Flock_t {
	lk := &unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: r.start}
	if r.exclusive {
		lk.Type = unix.F_WRLCK
	}
	if r.end < math.MaxInt64 {
		lk.Len = r.end - r.start + 1
	}
	return lk
}
