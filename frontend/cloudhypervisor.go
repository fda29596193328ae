package frontend

import (
	"fmt"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// With Options.CloudHypervisor the messages are those of cloud-hypervisor 54 in the order of its source:
// connect_vhost_user, negotiate_features_vhost_user, setup_vhost_user and reinitialize_vhost_user in
// virtio-devices/src/vhost_user/vu_common_ctrl.rs, Fs::new in fs.rs. After SET_PROTOCOL_FEATURES each message
// asks for a reply, also those that have one anyway.

// cloudProtocol are the protocol features that cloud-hypervisor knows for virtio-fs.
const cloudProtocol = vu.ProtocolMQ | vu.ProtocolConfigureMemSlots | vu.ProtocolReplyAck | vu.ProtocolInflightShmFD |
	vu.ProtocolLogShmFD | vu.ProtocolDeviceState

// cloudConnect is what is said when the VMM starts.
func (f *Frontend) cloudConnect() error {
	offered, err := f.cloudBegin()
	if err != nil {
		return err
	}
	f.Features = f.choose(offered)
	p, err := f.GetU64(vu.ReqGetProtocolFeatures)
	if err != nil {
		return err
	}
	f.Protocol = vu.ProtocolFeatures(p) & cloudProtocol
	if !f.Protocol.Has(vu.ProtocolReplyAck) || !f.Protocol.Has(vu.ProtocolInflightShmFD) {
		return fmt.Errorf("the back-end has the protocol features %s only", f.Protocol)
	}
	if err := f.SetU64(vu.ReqSetProtocolFeatures, uint64(f.Protocol)); err != nil {
		return err
	}
	n, err := f.cloudCall(vu.ReqGetQueueNum, nil)
	if err != nil {
		return err
	}
	defer n.Close()
	if u, ok := vu.Decode[vu.U64](n.Body); !ok || u.Value < uint64(len(f.Queues)) {
		return fmt.Errorf("GET_QUEUE_NUM answers %x, want %d or more", n.Body, len(f.Queues))
	}
	return nil
}

// cloudBegin is how each connection begins.
func (f *Frontend) cloudBegin() (features uint64, err error) {
	if err := f.Send(vu.ReqSetOwner, nil); err != nil {
		return 0, err
	}
	return f.GetU64(vu.ReqGetFeatures)
}

// cloudReconnect is what is said on another connection. The protocol features are not asked for.
func (f *Frontend) cloudReconnect() error {
	offered, err := f.cloudBegin()
	if err != nil {
		return err
	}
	if offered&f.Features != f.Features {
		return fmt.Errorf("the back-end has the features %#x, and had %#x before", offered, f.Features)
	}
	if err := f.SetU64(vu.ReqSetProtocolFeatures, uint64(f.Protocol)); err != nil {
		return err
	}
	for _, q := range f.Queues {
		q.guess(q.Offered())
	}
	return f.cloudSetUp()
}

// cloudSetUp gives the back-end memory and rings, and starts them.
func (f *Frontend) cloudSetUp() error {
	features := vu.U64{Value: f.Features}
	steps := []func() error{
		func() error { return f.Acked(vu.ReqSetFeatures, vu.Bytes(&features)) },
		f.ShareMemory,
	}
	for _, q := range f.Queues {
		steps = append(steps, func() error { return q.cloudState(vu.ReqSetVringNum, uint32(q.size)) })
	}
	steps = append(steps, f.cloudInflight)
	for _, q := range f.Queues {
		steps = append(steps, q.cloudStart)
	}
	for _, q := range f.Queues {
		steps = append(steps, func() error { return q.cloudState(vu.ReqSetVringEnable, 1) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// cloudInflight has the area made once, and gives it to the back-end.
func (f *Frontend) cloudInflight() error {
	if f.inflight < 0 {
		d := vu.InflightDescription{NumQueues: uint16(len(f.Queues)), QueueSize: f.opts.QueueSize}
		m, err := f.cloudCall(vu.ReqGetInflightFD, vu.Bytes(&d))
		if err != nil {
			return err
		}
		defer m.Close()
		got, ok := vu.Decode[vu.InflightDescription](m.Body)
		if !ok || len(m.FDs) != 1 {
			return fmt.Errorf("GET_INFLIGHT_FD answers %x with %d descriptors", m.Body, len(m.FDs))
		}
		f.inflight, f.inflightAt = m.TakeFD(0), got
	}
	return f.Acked(vu.ReqSetInflightFD, vu.Bytes(&f.inflightAt), f.inflight)
}

// cloudStart says where the ring is. Its base is the driver's index, also when requests are under way.
func (q *Queue) cloudStart() error {
	q.mu.Lock()
	base := q.next
	q.mu.Unlock()
	addr, index := q.addr(), vu.U64{Value: uint64(q.index)}
	if err := q.f.Acked(vu.ReqSetVringAddr, vu.Bytes(&addr)); err != nil {
		return err
	}
	if err := q.cloudState(vu.ReqSetVringBase, uint32(base)); err != nil {
		return err
	}
	if err := q.f.Acked(vu.ReqSetVringCall, vu.Bytes(&index), q.call); err != nil {
		return err
	}
	return q.f.Acked(vu.ReqSetVringKick, vu.Bytes(&index), q.kick)
}

func (q *Queue) cloudState(r vu.Request, num uint32) error {
	s := vu.VringState{Index: uint32(q.index), Num: num}
	return q.f.Acked(r, vu.Bytes(&s))
}

// cloudCall sends a message that has an answer with the bit that asks for a reply, and returns the answer, which the
// caller closes.
func (f *Frontend) cloudCall(r vu.Request, body []byte) (*vu.Message, error) {
	f.control.Lock()
	defer f.control.Unlock()
	if err := f.SendFlags(r, vu.FlagVersion|vu.FlagNeedReply, body); err != nil {
		return nil, err
	}
	m, err := f.Receive()
	if err == nil && m.Number != uint32(r) {
		m.Close()
		return nil, fmt.Errorf("%s is answered with %s", r, m)
	}
	return m, err
}
