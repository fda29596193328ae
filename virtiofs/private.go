package virtiofs

import "github.com/govirtiofs/govirtiofs/vhostuser"

// vainKicks is how often a queue is kicked, before its first request, until something must
// be wrong. QEMU kicks each queue once when it starts it.
const vainKicks = 2

// kickedInVain is called after a kick without a request in the ring, if there was never
// one before. The guest may write to private memory, while ours is a copy: QEMU sends a
// descriptor for a memfd with share=off as well.
func (w *worker) kickedInVain() {
	if w.vain++; w.vain == vainKicks && len(w.waiting) == 0 && !w.broken {
		w.log.Warn("The guest has sent a request that the daemon can't read. " + vhostuser.ShareHint)
	}
}
