package stream

import "sync"

// pool keeps buffers for one channel, in a few sizes.
type pool struct {
	mu      sync.Mutex
	largest int
	free    [len(poolSizes) + 1][][]byte
	kept    int // bytes in free
}

// poolSizes are the sizes in addition to the largest. Most requests and replies need
// the first.
var poolSizes = [...]int{256, 4 << 10, 16 << 10, 64 << 10}

// maxKept is how many bytes a pool keeps; the runtime gets the rest.
const maxKept = 1 << 20

func (p *pool) class(n int) int {
	for i, size := range poolSizes {
		if n <= size {
			return i
		}
	}
	return len(poolSizes)
}

// get returns n bytes, which hold what they held; n is at most largest.
func (p *pool) get(n int) []byte {
	c := p.class(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.free[c]; len(l) > 0 {
		b := l[len(l)-1]
		l[len(l)-1] = nil
		p.free[c] = l[:len(l)-1]
		p.kept -= cap(b)
		return b[:n]
	}
	size := p.largest
	if c < len(poolSizes) {
		size = poolSizes[c]
	}
	return make([]byte, n, size)
}

// put takes a buffer of get's back; what has another size is left to the runtime.
func (p *pool) put(b []byte) {
	c := p.class(cap(b))
	if c < len(poolSizes) && cap(b) != poolSizes[c] || c == len(poolSizes) && cap(b) != p.largest {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept+cap(b) > maxKept {
		return
	}
	p.free[c] = append(p.free[c], b[:0])
	p.kept += cap(b)
}
