package vhostuser

import (
	"os"

	"github.com/govirtiofs/govirtiofs/internal/eventfd"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Device is what a Conn serves. All calls come from Serve's goroutine.
type Device interface {
	// Features are the device's own virtio feature bits, beside those that Conn
	// offers for every device.
	Features() uint64
	// ProtocolFeatures are those that need the device, beside Conn's.
	ProtocolFeatures() ProtocolFeatures
	// Negotiated tells what the front-end has chosen, before a queue starts.
	Negotiated(features uint64, protocol ProtocolFeatures) error
	NumQueues() int
	// MaxQueueSize is the largest ring, in entries.
	MaxQueueSize() int
	// Config is the configuration space; nil when the device offers none.
	Config() []byte

	// StartQueue hands over a running ring; the device owns it until StopQueue
	// returns, which is when nothing of it is in flight.
	StartQueue(index int, v Vring) error
	StopQueue(index int) error
	// Reset drops the guest's state: the driver has reset the device. All queues
	// are stopped.
	Reset()
}

// Vring is a running ring and its eventfds.
type Vring struct {
	Queue *virtqueue.Queue
	// Kick is the driver's eventfd, or -1 when the ring must be polled. It stays
	// Conn's and may be in blocking or non-blocking mode.
	Kick int
	// Call and Err are notified to reach the driver; their descriptors may change
	// while the ring runs.
	Call, Err *eventfd.Notifier
}

// StateTransferrer is a Device that can be migrated (VHOST_USER_PROTOCOL_F_DEVICE_STATE).
// The methods run on a goroutine of their own while the rings are stopped.
type StateTransferrer interface {
	// SaveState writes the device's state and returns; the file is closed by Conn.
	SaveState(f *os.File) error
	LoadState(f *os.File) error
}

// SharedMemoryDevice is a Device with memory regions that the front-end shows to
// the guest (VHOST_USER_PROTOCOL_F_SHMEM).
type SharedMemoryDevice interface {
	// SharedMemory is the size of each region in bytes, by id; 0 is none.
	SharedMemory() []uint64
	// AttachSharedMemory hands over the way to map into region id; nil when the
	// front-end is gone.
	AttachSharedMemory(id uint8, s *SharedMemory)
}
