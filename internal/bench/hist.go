package bench

import "math/bits"

// subBits sets the precision of a Hist: a bucket is at most 1/2^subBits of its value
// wide, here 1.6 %.
const subBits = 6

// Hist counts durations in buckets whose width grows with the value. The zero Hist is
// empty. Recording costs two additions and allocates nothing.
type Hist struct {
	counts [(64 - subBits + 1) << subBits]uint64
	n      uint64
	max    int64
}

// bucket is the index of a value: its highest bits, and how far up they are.
func bucket(v uint64) int {
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// lowest is the smallest value in a bucket.
func lowest(i int) uint64 {
	if i < 1<<subBits {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return uint64(i&(1<<subBits-1)+1<<subBits) << shift
}

// Record counts a duration in nanoseconds.
func (h *Hist) Record(ns int64) {
	ns = max(ns, 0)
	h.counts[bucket(uint64(ns))]++
	h.n++
	h.max = max(h.max, ns)
}

// Add counts all of o's durations too.
func (h *Hist) Add(o *Hist) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// Count is how many durations were recorded.
func (h *Hist) Count() uint64 { return h.n }

// Max is the longest duration, exactly.
func (h *Hist) Max() int64 { return h.max }

// Quantile is the duration that a share q (0 to 1) of all durations does not exceed,
// to the precision of the buckets. Without durations it is 0.
func (h *Hist) Quantile(q float64) int64 {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q * float64(h.n))
	seen := uint64(0)
	for i, c := range h.counts {
		if seen += c; seen > rank || seen == h.n && c > 0 {
			middle := lowest(i) + (lowest(i+1)-lowest(i))/2
			return min(int64(middle), h.max)
		}
	}
	return h.max
}
