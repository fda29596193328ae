package relay

import (
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// packet is a message without a call.
func packet(op fp.Opcode, unique, node uint64, body ...[]byte) []byte {
	h := fp.InHeader{Opcode: uint32(op), Unique: unique, NodeID: node, Len: uint32(inHeaderSize)}
	for _, b := range body {
		h.Len += uint32(len(b))
	}
	out := append(make([]byte, 0, h.Len), fp.Bytes(&h)...)
	for _, b := range body {
		out = append(out, b...)
	}
	return out
}

// tell sends a request whose reply nobody waits for.
func (l *link) tell(op fp.Opcode, node uint64, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(l.orphans)-l.lost >= 2*maxOrphans {
		return
	}
	unique := l.next
	l.next += 2
	l.orphans[unique] = orphan{opcode: op, since: time.Now()}
	l.post(packet(op, unique, node, body))
}

// forget takes n lookups off a node of the program's.
func (l *link) forget(node, n uint64) {
	if n == 0 || node == fp.RootID {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	if !l.waiting() {
		in := fp.ForgetIn{NLookup: n}
		unique := l.next
		l.next += 2
		if l.sendBytes(packet(fp.OpForget, unique, node, fp.Bytes(&in))) != unix.EAGAIN {
			return
		}
	}
	// A count that is told late does no harm. The client's nodes find room; a program that names ever new ones in its
	// replies, and does not read, loses counts.
	if _, ok := l.forgets[node]; !ok && len(l.forgets) >= l.maxForgets {
		return
	}
	l.forgets[node] += n
	l.wake()
}

// maxBatch is how many counts one BATCH_FORGET has.
const maxBatch = 200

// sendForgets sends some of the counts that are queued. l.mu is held.
func (l *link) sendForgets() unix.Errno {
	var ids []uint64
	var list []byte
	for id, n := range l.forgets {
		one := fp.ForgetOne{NodeID: id, NLookup: n}
		ids, list = append(ids, id), append(list, fp.Bytes(&one)...)
		if len(ids) == maxBatch || l.minor < since[fp.OpBatchForget] {
			break
		}
	}
	var b []byte
	unique := l.next
	l.next += 2
	if l.minor < since[fp.OpBatchForget] {
		b = packet(fp.OpForget, unique, ids[0], list[8:])
	} else {
		in := fp.BatchForgetIn{Count: uint32(len(ids))}
		b = packet(fp.OpBatchForget, unique, 0, fp.Bytes(&in), list)
	}
	if l.sendBytes(b) == unix.EAGAIN {
		return unix.EAGAIN
	}
	for _, id := range ids {
		delete(l.forgets, id)
	}
	return 0
}

// interrupt asks the program to end a call early. Its reply comes all the same.
func (l *link) interrupt(unique uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[unique]
	if c == nil || l.noInterrupt.Load() || since[fp.OpInterrupt] > l.minor || c.interrupts == maxInterrupts {
		return
	}
	if c.queued {
		l.unqueue(c)
		delete(l.calls, c.header.Unique)
		l.settled(c)
		c.finish(0, unix.EINTR)
		return
	}
	c.interrupts++
	in := fp.InterruptIn{Unique: c.header.Unique}
	l.post(packet(fp.OpInterrupt, c.header.Unique|1, 0, fp.Bytes(&in)))
}

// abandon ends the wait for c. false says that its result is there, or is about to come in c.done. Otherwise what
// the reply will say is undone when it comes.
func (l *link) abandon(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || l.calls[c.header.Unique] != c {
		return false
	}
	if c.queued {
		delete(l.calls, c.header.Unique)
		l.settled(c)
		l.unqueue(c)
		return true
	}
	l.orphan(c)
	return true
}

// orphan makes an orphan of a call that the program has. l.mu is held.
func (l *link) orphan(c *call) {
	delete(l.calls, c.header.Unique)
	l.settled(c)
	o := orphan{opcode: fp.Opcode(c.header.Opcode), form: c.form, node: c.header.NodeID, since: time.Now()}
	if o.opcode == fp.OpSetlk || o.opcode == fp.OpSetlkw {
		o.lock = *(*fp.LkIn)(unsafe.Pointer(&c.body))
	}
	o.nodes, o.files = [2]*node{c.node, c.other}, [2]*file{c.file, c.otherFile}
	for _, n := range o.nodes {
		if n != nil {
			n.Hold()
		}
	}
	for _, f := range o.files {
		if f != nil {
			f.Acquire()
		}
	}
	l.orphans[c.header.Unique] = o
}

// takeOrphan takes an orphan out. l.mu is held.
func (l *link) takeOrphan(unique uint64) (o orphan, ok bool) {
	o, ok = l.orphans[unique]
	delete(l.orphans, unique)
	if o.lost {
		l.lost--
	}
	return o, ok
}

// unqueue takes out a call that the program does not have yet. l.mu is held.
func (l *link) unqueue(c *call) {
	c.queued = false
	l.queue = slices.DeleteFunc(l.queue, func(q *call) bool { return q == c })
}

// longest asks the kernel how much one send may have.
func (l *link) longest() int {
	n, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return 0
	}
	return n - 32
}
