package virtqueue

import "fmt"

// SetBase is for a queue that continues where another process has stopped. base is the next
// index of the available ring to read. It replaces Config.Base and the value of the in-flight
// area. Call it before the first Pop.
func (q *Queue) SetBase(base uint16) {
	q.nextAvail, q.availIdx, q.again, q.inherited = base, base, nil, true
}

// Retake fills c with the chain at head, which another process has popped and not returned. It
// counts as popped: Push returns it. Errors are those of Pop. The driver may have changed the
// chain, or never have offered it.
//
// All its device-writable buffers are marked in the dirty log, because the other process may
// have written to them.
func (q *Queue) Retake(c *Chain, head uint16) error {
	if head >= q.cfg.Size || q.popped >= int(q.cfg.Size) {
		return fmt.Errorf("%w: head %d of %d, beside %d others", ErrBrokenRing, head, q.cfg.Size, q.popped)
	}
	err := q.take(c, head)
	if target := q.log.Load(); target != nil {
		q.lastLog = target
		for _, v := range c.Writable() {
			target.mark(q.mem, v, uint64(v.Len))
		}
	}
	return err
}
