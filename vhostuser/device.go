package vhostuser

import (
	"errors"
	"io"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Device is what a Conn serves. All calls come from Serve's goroutine, except those of
// StateTransferrer.
//
// Embed NotImplemented and write the methods that you have. To change some methods of another
// device embed that: there are no optional interfaces which would be lost.
type Device interface {
	StateTransferrer
	SharedMemoryDevice

	// Features are the device's own virtio feature bits, in addition to those
	// that Conn offers for every device.
	Features() uint64
	// ProtocolFeatures are those that need the device, in addition to Conn's. They
	// include ProtocolDeviceState if the state can be transferred. ProtocolConfig
	// and ProtocolSharedMemory follow from Config and SharedMemory.
	ProtocolFeatures() ProtocolFeatures
	// Negotiated tells what the front-end has chosen, before a queue starts.
	Negotiated(features uint64, protocol ProtocolFeatures) error
	NumQueues() int
	// MaxQueueSize is the largest ring, in entries.
	MaxQueueSize() int
	// Config is the configuration space; nil when the device offers none.
	Config() []byte

	// Connected says whose queues will run, before the first of them starts or a state is
	// transferred. same is true if the guest is the one of the connection that Conn.Follow
	// was told of. Otherwise nothing that an earlier guest has left may be used.
	Connected(same bool)
	// StartQueue hands over a ring that is configured and enabled and has memory;
	// there may be requests in it without a kick. The device owns it until
	// StopQueue returns. After an error it is not running.
	StartQueue(index int, v Vring) error
	// StopQueue returns when nothing of the ring is in flight any more. The guest's
	// state stays: a paused guest continues where it was.
	StopQueue(index int) error
	// Reset drops the guest's state: the driver has reset the device. All queues
	// are stopped.
	Reset()
}

// Vring is a running ring and its eventfds.
type Vring struct {
	Queue *virtqueue.Queue
	// Kick is the driver's eventfd, or -1 when the ring must be polled. It stays
	// Conn's, and open until StopQueue returns. It may be in blocking or
	// non-blocking mode, and the front-end may read it, so a device should wait for
	// it together with a descriptor of its own and not count on what it reads.
	Kick int
	// Call and Err are notified to reach the driver; their descriptors may change
	// while the ring runs.
	Call, Err Notifier
	// Start is a number that no other start of a ring of the connection has, if the connection
	// is recovered; 0 otherwise. If a ring that ran in another process had this number, this is
	// the same start: that process has taken requests from it.
	Start uint32
	// Back is where the ring has stopped if it ran in an earlier connection, of the same guest; nil if
	// not. Queue continues there.
	Back *virtqueue.Position
}

// Notifier tells the driver something. It may be used from any goroutine.
type Notifier interface {
	// Notify adds 1 to the front-end's eventfd, if there is one. It may wait as long as the
	// front-end has filled the counter up.
	Notify()
	// Unblock ends such a wait: a queue that stops does not wait for the front-end.
	Unblock()
}

// StateTransferrer moves a device's state to another process, or to another host. Conn calls
// it if ProtocolFeatures has ProtocolDeviceState. The methods run one at a time, on a
// goroutine of their own while no queue runs; StartQueue and Reset wait until they have
// returned.
type StateTransferrer interface {
	// SaveState writes the device's state. Writing fails when the front-end gives up,
	// or takes nothing for long.
	SaveState(w io.Writer) error
	// LoadState reads up to the end of r what SaveState has written. An error fails
	// the migration.
	LoadState(r io.Reader) error
}

// SharedMemoryDevice has memory regions that the front-end shows to the guest
// (VHOST_USER_PROTOCOL_F_SHMEM).
type SharedMemoryDevice interface {
	// SharedMemory is the size of each region in bytes, by id; 0 is none. Sizes are
	// multiples of the page size and stay the same. Without any the device has no
	// shared memory, and the feature is not offered.
	SharedMemory() []uint64
	// AttachSharedMemory hands over the way to map into region id, from Serve's
	// goroutine. It comes again with nil when the front-end is gone or has exchanged
	// its channel: all mappings are gone too. Queues may be running.
	AttachSharedMemory(id uint8, s *SharedMemory)
	// FSMap are the requests by which region 0 may be mapped if the front-end does not
	// know SHMEM. The zero value is: it may not.
	FSMap() FSMap
}

// NotImplemented is what a Device need not have: features, a configuration space, a state
// that can be transferred or that outlives a connection, and shared memory.
type NotImplemented struct{}

// Connected implements Device.
func (NotImplemented) Connected(bool) {}

var errNoState = errors.New("vhostuser: the device has no state to transfer")

// Features implements Device.
func (NotImplemented) Features() uint64 { return 0 }

// ProtocolFeatures implements Device.
func (NotImplemented) ProtocolFeatures() ProtocolFeatures { return 0 }

// Negotiated implements Device.
func (NotImplemented) Negotiated(uint64, ProtocolFeatures) error { return nil }

// Config implements Device.
func (NotImplemented) Config() []byte { return nil }

// SaveState implements StateTransferrer.
func (NotImplemented) SaveState(io.Writer) error { return errNoState }

// LoadState implements StateTransferrer.
func (NotImplemented) LoadState(io.Reader) error { return errNoState }

// SharedMemory implements SharedMemoryDevice.
func (NotImplemented) SharedMemory() []uint64 { return nil }

// AttachSharedMemory implements SharedMemoryDevice.
func (NotImplemented) AttachSharedMemory(uint8, *SharedMemory) {}

// FSMap implements SharedMemoryDevice.
func (NotImplemented) FSMap() FSMap { return FSMap{} }
