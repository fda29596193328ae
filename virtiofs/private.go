package virtiofs

import "github.com/govirtiofs/govirtiofs/vhostuser"

// vainKicks is how often a queue is kicked, before its first request, until something must
// be wrong. QEMU kicks each queue once when it starts it.
const vainKicks = 2

// kickedInVain is for a kick after which there is no request in the ring, and was none
// before. The guest may write to memory that looks like ours and is its own: QEMU sends a
// descriptor for a memfd with share=off as well.
func (w *worker) kickedInVain() {
	if w.vain++; w.vain == vainKicks && len(w.waiting) == 0 && !w.broken {
		w.log.Warn("The guest has sent a request that can't be seen. " + vhostuser.ShareHint)
	}
}
