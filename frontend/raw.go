package frontend

import (
	"fmt"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Gone returns a channel that is closed when the back-end has closed the connection. It
// may be called once.
func (f *Frontend) Gone() (<-chan struct{}, error) {
	file, err := f.sock.Load().File() // a descriptor of our own, so that Close can't pull it away
	if err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer func() { _ = file.Close() }()
		set := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLRDHUP}}
		for {
			if _, err := unix.Poll(set, -1); err != unix.EINTR {
				return
			}
		}
	}()
	return gone, nil
}

// HungUp says whether the connection has ended, on either side, for good: after Cut there will be
// another one. It does not wait.
func (f *Frontend) HungUp() bool {
	sock := f.sock.Load()
	return sock.HungUp() && !f.cut.Load() && sock == f.sock.Load()
}

// CheckQueues says what is wrong if the back-end has fewer request queues than the front-end
// is to use; some end the connection, and say nothing, when such a queue is started.
func (f *Frontend) CheckQueues() error {
	offered := 1 // without the feature there is the high-priority queue and one other
	if f.Protocol.Has(vu.ProtocolMQ) {
		n, err := f.GetU64(vu.ReqGetQueueNum)
		if err != nil {
			return err
		}
		offered = int(max(min(n, 1<<16), 1)) - 1
	}
	if want := len(f.Queues) - 1; want > offered {
		s := "s"
		if offered == 1 {
			s = ""
		}
		return fmt.Errorf("the back-end offers %d request queue%s, --queues is %d", offered, s, want)
	}
	return nil
}

// StartReceiving starts the goroutine that Run and Client need for each queue.
func (q *Queue) StartReceiving() { q.startReaper() }

// Acquire waits for a slot that is not in use. Release gives it back.
func (q *Queue) Acquire() *Slot { return <-q.free }

// Release gives a slot back.
func (q *Queue) Release(s *Slot) { q.free <- s }

// Run sends a request as it stands in the slot: the first out bytes of Out and outData
// bytes of Data for the device to read, and room for a reply in In and Data. It waits
// for the device and returns how much that says it wrote. After an error the slot
// belongs to the device for good.
func (s *Slot) Run(out, outData, in, inData int, gone <-chan struct{}) (written uint32, err error) {
	bufs := [4]Buf{{At: s.outAt, Len: out}}
	n := 1
	for _, b := range [...]Buf{{At: s.dataAt, Len: outData}, {At: s.inAt, Len: in, Write: true},
		{At: s.dataAt, Len: inData, Write: true}} {
		if b.Len > 0 {
			bufs[n] = b
			n++
		}
	}
	s.q.Submit(s, bufs[:n])
	select {
	case written = <-s.done:
		return written, nil
	case <-gone:
		return 0, ErrGone
	}
}
