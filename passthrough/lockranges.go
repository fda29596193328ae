package passthrough

import (
	"math"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// lockRange is a lock that an owner holds on a part of a file.
type lockRange struct {
	start, end int64 // both included; math.MaxInt64 is whatever the file's length becomes
	exclusive  bool
	record     uint32 // in the ledger; 0 is none
}

// excludes reports whether two owners can't hold r and s at the same time.
func (r lockRange) excludes(s lockRange) bool {
	return r.start <= s.end && s.start <= r.end && (r.exclusive || s.exclusive)
}

// lockRanges are an owner's locks on a file: in order, without overlaps, neighbours of one
// kind joined. The kernel has the same list, and there is no call that reads it.
type lockRanges []lockRange

// from is the index of the first range that ends at off or later.
func (l lockRanges) from(off int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].end >= off })
}

// exclude reports whether one of the ranges excludes r.
func (l lockRanges) exclude(r lockRange) bool {
	for i := l.from(r.start); i < len(l) && l[i].start <= r.end; i++ {
		if l[i].excludes(r) {
			return true
		}
	}
	return false
}

// lockChange is what a lock or unlock makes of a list: the ranges from first to last, the
// latter not included, give way to n others.
type lockChange struct {
	first, last int
	with        [3]lockRange
	n           int
	frees       bool // others may lock something that they could not
}

func (c *lockChange) add(r lockRange) {
	c.with[c.n] = r
	c.n++
}

// growth is how many ranges more there will be.
func (c *lockChange) growth() int { return c.n - (c.last - c.first) }

// change is what a lock or unlock makes of the list, which stays as it is.
func (l lockRanges) change(lk *unix.Flock_t) (c lockChange) {
	n, unlock := rangeOf(lk), lk.Type == unix.F_UNLCK
	c.first = l.from(n.start)
	for c.last = c.first; c.last < len(l) && l[c.last].start <= n.end; c.last++ {
		c.frees = c.frees || unlock || l[c.last].exclusive && !n.exclusive
	}
	if unlock && c.first == c.last {
		return c
	}
	var left, right []lockRange // what remains beside n, or lies next to it
	if c.first < c.last && l[c.first].start < n.start {
		left = []lockRange{{start: l[c.first].start, end: n.start - 1, exclusive: l[c.first].exclusive}}
	} else if c.first > 0 && !unlock && l[c.first-1].end == n.start-1 {
		c.first--
		left = l[c.first : c.first+1]
	}
	if c.first < c.last && l[c.last-1].end > n.end {
		right = []lockRange{{start: n.end + 1, end: l[c.last-1].end, exclusive: l[c.last-1].exclusive}}
	} else if c.last < len(l) && !unlock && n.end < math.MaxInt64 && l[c.last].start == n.end+1 {
		right = l[c.last : c.last+1]
		c.last++
	}
	joined := func(r lockRange) bool { return !unlock && r.exclusive == n.exclusive }
	if len(left) > 0 && joined(left[0]) {
		n.start, left = left[0].start, nil
	}
	if len(right) > 0 && joined(right[0]) {
		n.end, right = right[0].end, nil
	}
	for _, r := range left {
		c.add(r)
	}
	if !unlock {
		c.add(n)
	}
	for _, r := range right {
		c.add(r)
	}
	return c
}

// apply is the list after a change that was made of it.
func (l lockRanges) apply(c *lockChange) lockRanges {
	return slices.Replace(l, c.first, c.last, c.with[:c.n]...)
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
