package frontend

import (
	"errors"
	"fmt"
	"net"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// openInflight has the back-end make an area in which it notes the requests under way.
func (f *Frontend) openInflight() error {
	if !f.Protocol.Has(vu.ProtocolInflightShmFD) {
		return errors.New("the back-end has no in-flight area")
	}
	d := vu.InflightDescription{NumQueues: uint16(len(f.Queues)), QueueSize: f.opts.QueueSize}
	f.control.Lock()
	defer f.control.Unlock()
	if err := f.Send(vu.ReqGetInflightFD, vu.Bytes(&d)); err != nil {
		return err
	}
	m, err := f.Receive()
	if err != nil {
		return err
	}
	defer m.Close()
	got, ok := vu.Decode[vu.InflightDescription](m.Body)
	if !ok || m.Number != uint32(vu.ReqGetInflightFD) || len(m.FDs) != 1 {
		return fmt.Errorf("GET_INFLIGHT_FD answers %x with %d descriptors", m.Body, len(m.FDs))
	}
	f.inflight, f.inflightAt = m.TakeFD(0), got
	return f.sendInflight()
}

// sendInflight gives the back-end the area. The control lock is held.
func (f *Frontend) sendInflight() error {
	return f.acked(vu.ReqSetInflightFD, vu.Bytes(&f.inflightAt), f.inflight)
}

// Cut closes the connection and keeps all else, as a VMM does whose guest runs on. Requests may be
// under way, and new ones be offered. Reconnect follows.
func (f *Frontend) Cut() {
	f.cut.Store(true)
	_ = f.sock.Load().Close()
	for _, q := range f.Queues {
		q.guess(q.UsedIndex())
	}
}

// Reconnect starts the device over another connection, which it takes over, to the same back-end
// or another one: with the same memory, the same rings, and the in-flight area if there is one. The
// back-end is told to continue where VMMs say that have lost a back-end: QEMU names the index that was in
// the used ring when it noticed, cloud-hypervisor, which has the area, the driver's.
func (f *Frontend) Reconnect(c *net.UnixConn) error {
	f.sock.Store(vu.NewSocket(c, vu.ToBackend))
	f.cut.Store(false)
	if f.opts.CloudHypervisor {
		return f.cloudReconnect()
	}
	features, protocol, err := f.negotiate()
	if err != nil {
		return err
	}
	if f.Features != features || f.Protocol != protocol {
		return fmt.Errorf("the back-end has other features: %#x, %s; before %#x, %s", features, protocol, f.Features, f.Protocol)
	}
	if err := f.ShareMemory(); err != nil {
		return err
	}
	if f.inflight >= 0 {
		f.control.Lock()
		err := f.sendInflight()
		f.control.Unlock()
		if err != nil {
			return err
		}
	}
	if f.inflight >= 0 {
		for _, q := range f.Queues {
			q.guess(q.Offered())
		}
	}
	return f.Start()
}

// Clear empties the ring, as a driver does that has reset the device. No request may be under way.
func (q *Queue) Clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.f.mem[q.base : q.base+ringBytes(q.size)])
	q.avail, q.next, q.kicked, q.lastUsed = 0, 0, 0, 0
}

// guess sets where the device is to continue.
func (q *Queue) guess(next uint16) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = next
}

// Offered is the driver's index of the available ring.
func (q *Queue) Offered() uint16 { return loadHalf(q.f.mem, q.availAt+2) }
