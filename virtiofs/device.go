package virtiofs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// Limits of a device.
const (
	// TagSize is the length of the tag field in the configuration space, in
	// bytes (virtio 1.2, 5.11.4).
	TagSize = 36
	// MaxRequestQueues is the largest Options.RequestQueues.
	MaxRequestQueues = 255
	// MaxQueueSize is the largest ring, the limit of split virtqueues.
	MaxQueueSize = 32768
)

// Options are a device's parameters.
type Options struct {
	// Tag names the share to the guest. With an empty tag the device offers no
	// configuration space: QEMU has one of its own, other front-ends (crosvm,
	// User-Mode Linux) need the device's.
	Tag string
	// RequestQueues is how many request queues the front-end may set up; 0 is 1.
	RequestQueues int
	// ConfigQueues is the number in the configuration space; 0 is RequestQueues. A
	// driver uses as many, so it can be less than what a front-end with a
	// configuration space of its own may have.
	ConfigQueues int
	// BusyPoll is for the request queues, each.
	BusyPoll BusyPoll
	// Window is the table of the DAX window. It gets the front-end's region when
	// there is one. nil means no window. Drivers are told of the window by the
	// front-end, which asks for the configuration space, so a Tag is needed too.
	Window *dax.Table
	// FSMap are requests for front-ends that have a window and no SHMEM; the window's
	// size is theirs, and must be that of Window.
	FSMap vhostuser.FSMap
	// Host is told how many queues run, because Go's scheduler then needs more processors,
	// see host.Host.AddQueues. If it is nil, the program must set their number itself.
	Host *host.Host
	// Reconnect is how long a guest keeps its session when its front-end has gone without
	// stopping the queues. If a front-end connects meanwhile that brings the same memory, in
	// files without a name, the guest continues and notices nothing. The session ends earlier
	// when the process of the front-end ends, or when another guest connects. With 0 a session
	// ends with its connection.
	Reconnect time.Duration
	// Recovery is where the device leaves what a successor of this process needs; nil is nowhere.
	Recovery *Recovery
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger
}

// Device is one virtio-fs device; it implements vhostuser.Device. It outlives a
// connection: after a front-end went away, the next one may be served.
type Device struct {
	handler  fuse.Handler
	opts     Options
	config   []byte
	workers  []*worker // by queue; nil when stopped
	frontend frontendReady
	absent   absentees
	stopped  bool // a queue was stopped since the last start

	serving  atomic.Bool // a front-end is connected
	takeover *takeover   // with which rings of another process start; nil without Resume

	interrupt func(queue int, at faultPoint) // of tests; nil otherwise
}

var _ vhostuser.Device = (*Device)(nil)

// New returns a device that serves requests with h. The options are checked:
// a tag is at most TagSize bytes without NUL.
func New(h fuse.Handler, opts Options) (*Device, error) {
	if opts.RequestQueues == 0 {
		opts.RequestQueues = 1
	}
	if opts.RequestQueues < 0 || opts.RequestQueues > MaxRequestQueues {
		return nil, fmt.Errorf("virtiofs: %d request queues: want 1 to %d", opts.RequestQueues, MaxRequestQueues)
	}
	if err := opts.BusyPoll.check(); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	d := &Device{handler: h, opts: opts, workers: make([]*worker, 1+opts.RequestQueues)}
	if opts.Tag != "" {
		if opts.ConfigQueues == 0 {
			opts.ConfigQueues = opts.RequestQueues
		}
		config, err := configSpace(opts.Tag, opts.ConfigQueues)
		if err != nil {
			return nil, err
		}
		d.config = config
	}
	return d, nil
}

// configSpace is struct virtio_fs_config without notify_buf_size, which only
// devices with VIRTIO_FS_F_NOTIFICATION have (virtio 1.2, 5.11.4).
func configSpace(tag string, requestQueues int) ([]byte, error) {
	b := make([]byte, TagSize+4)
	if len(tag) > TagSize {
		return nil, fmt.Errorf("virtiofs: tag %q has %d bytes, at most %d fit", tag, len(tag), TagSize)
	}
	for i := range len(tag) {
		if tag[i] == 0 {
			return nil, fmt.Errorf("virtiofs: tag %q has a NUL byte", tag)
		}
	}
	copy(b, tag)
	binary.LittleEndian.PutUint32(b[TagSize:], uint32(requestQueues))
	return b, nil
}

// ErrBusy says that a Device serves a front-end already: it has one at a time.
var ErrBusy = errors.New("virtiofs: the device has a front-end already")

// Serve serves one front-end until it disconnects or ctx ends, and closes conn. It returns
// ErrBusy while another front-end is served. The guest's session ends with it, but see
// Options.Reconnect.
func (d *Device) Serve(ctx context.Context, conn *net.UnixConn) error {
	if !d.serving.CompareAndSwap(false, true) {
		_ = conn.Close()
		return ErrBusy
	}
	defer d.serving.Store(false)
	defer func() { d.takeover = nil }()
	c, _, _, err := d.newConn(conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	if err := d.opts.Recovery.forget(); err != nil {
		_ = conn.Close()
		return err
	}
	return d.serve(ctx, c, conn)
}

// serve serves a front-end whose Conn is prepared, up to its end.
func (d *Device) serve(ctx context.Context, c *vhostuser.Conn, conn *net.UnixConn) error {
	peer := -1
	if d.opts.Reconnect > 0 {
		peer = peerOf(conn)
		c.Follow(d.absent.waiting())
	}
	d.absent.mapped = false
	err := c.Serve(ctx)
	d.depart(ctx, c.Left(), peer)
	return err
}

// Close ends the device and the handler. No front-end is served, or it returns ErrBusy; none will
// be. See fuse.Handler for other errors.
func (d *Device) Close(ctx context.Context) error {
	if !d.serving.CompareAndSwap(false, true) {
		return ErrBusy
	}
	return d.handler.Close(ctx)
}

// Features implements vhostuser.Device; a virtio-fs device has none of its own
// that a Linux driver knows.
func (d *Device) Features() uint64 { return 0 }

// ProtocolFeatures implements vhostuser.Device: the state of a guest can move.
func (d *Device) ProtocolFeatures() vhostuser.ProtocolFeatures {
	return vhostuser.ProtocolDeviceState
}

// Negotiated implements vhostuser.Device.
func (d *Device) Negotiated(uint64, vhostuser.ProtocolFeatures) error { return nil }

// NumQueues implements vhostuser.Device: the high-priority queue and the
// request queues.
func (d *Device) NumQueues() int { return len(d.workers) }

// MaxQueueSize implements vhostuser.Device.
func (d *Device) MaxQueueSize() int { return MaxQueueSize }

// Config implements vhostuser.Device; nil without a tag.
func (d *Device) Config() []byte { return d.config }

// StartQueue implements vhostuser.Device: it starts the queue's worker.
func (d *Device) StartQueue(index int, v vhostuser.Vring) error {
	if d.workers[index] != nil {
		return fmt.Errorf("virtiofs: queue %d runs already: %w", index, ErrBusy)
	}
	if d.stopped {
		d.stopped = false
		d.handler.Restarted()
	}
	d.handler.Started()
	poll := d.opts.BusyPoll
	if index == 0 {
		poll = BusyPoll{Max: NoPoll} // no request waits for a FORGET
	}
	w, err := newWorker(d.handler, d.opts.Host, v, poll, d.opts.Log.With("queue", index))
	if err == nil {
		if err = d.noteRing(index, v, w); err != nil {
			w.waker.close()
		} else {
			err = w.start(index == 0)
		}
	}
	if err != nil {
		return fmt.Errorf("virtiofs: queue %d: %w", index, err)
	}
	d.workers[index] = w
	d.frontend.started()
	return nil
}

// StopQueue implements vhostuser.Device: it returns when the worker has ended
// and no request of the queue is left.
func (d *Device) StopQueue(index int) error {
	d.frontend.stopping()
	if w := d.workers[index]; w != nil {
		w.stop()
		d.workers[index] = nil
		d.stopped = true
	}
	d.frontend.stopped(d.running())
	return nil
}

// running is how many queues run.
func (d *Device) running() (n int) {
	for _, w := range d.workers {
		if w != nil {
			n++
		}
	}
	return n
}

// Reset implements vhostuser.Device: the guest's session is gone.
func (d *Device) Reset() { d.handler.Reset() }
