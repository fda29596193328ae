package vsock

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// Queues of the device.
const (
	queueToGuest   = 0 // "rx" in the specification
	queueFromGuest = 1 // "tx"
	queueEvents    = 2 // some front-ends keep it to themselves
	numQueues      = 3
)

const maxQueueSize = 1024

// Options of a Device.
type Options struct {
	// CID is the guest's address, from 3 on.
	CID uint32
	// Path is where programs of the host connect to; ports have PATH_PORT.
	Path string
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger
}

// Device is a vhostuser.Device.
type Device struct {
	vhostuser.NotImplemented
	opts   Options
	log    *slog.Logger
	broken rate.Sometimes

	queues [numQueues]*worker // of Conn.Serve's goroutine

	mu       sync.Mutex // guards the following and all of each conn; a leaf
	conns    map[key]*conn
	ready    []*conn  // that have something to send to the guest
	orphans  []header // resets for packets without a connection
	lastPort uint32   // of the host's ports that were given out
	toGuest  *worker  // nil while the queue does not run
	opening  int      // goroutines that connect for the guest
	hellos   int      // host programs that have not said what they want
	ended    sync.WaitGroup
}

// New returns a device. It serves one front-end at a time.
func New(o Options) (*Device, error) {
	if o.CID <= hostCID || o.CID == math.MaxUint32 {
		return nil, fmt.Errorf("CID %d: want 3 or more", o.CID)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Device{opts: o, log: o.Log, broken: rate.Sometimes{Interval: time.Second}, conns: make(map[key]*conn), lastPort: firstPort}, nil
}

// NumQueues implements vhostuser.Device.
func (*Device) NumQueues() int { return numQueues }

// MaxQueueSize implements vhostuser.Device.
func (*Device) MaxQueueSize() int { return maxQueueSize }

// Config implements vhostuser.Device: struct virtio_vsock_config.
func (d *Device) Config() []byte { return binary.LittleEndian.AppendUint64(nil, uint64(d.opts.CID)) }

// StartQueue implements vhostuser.Device. The queue of events has nothing to tell.
func (d *Device) StartQueue(index int, v vhostuser.Vring) error {
	if index == queueEvents {
		return nil
	}
	w, err := newWorker(d, v)
	if err != nil {
		return err
	}
	d.queues[index] = w
	serve := d.fromGuest
	if index == queueToGuest {
		serve = d.fill
		d.mu.Lock()
		d.toGuest = w
		d.mu.Unlock()
	}
	go w.run(serve)
	return nil
}

// StopQueue implements vhostuser.Device.
func (d *Device) StopQueue(index int) error {
	w := d.queues[index]
	d.queues[index] = nil
	if w == nil {
		return nil
	}
	if index == queueToGuest {
		d.mu.Lock()
		d.toGuest = nil
		d.mu.Unlock()
	}
	w.stop()
	return nil
}

// Reset implements vhostuser.Device: all connections end.
func (d *Device) Reset() { d.Disconnected() }

// Disconnected ends all connections: the guest is gone.
func (d *Device) Disconnected() {
	d.mu.Lock()
	for _, c := range d.conns {
		d.remove(c)
	}
	d.orphans = d.orphans[:0]
	d.mu.Unlock()
	d.ended.Wait()
}

// kick has the queue to the guest checked. d.mu is held.
func (d *Device) kick() {
	if d.toGuest != nil {
		d.toGuest.wake()
	}
}
