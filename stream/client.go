package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Device is a descriptor of /dev/fuse. fusedev has some.
type Device interface {
	// Read waits for a request and reads it into the buffers. The error is io.EOF when the file
	// system was unmounted.
	Read(b ...[]byte) (int, error)
	// Answer writes a reply or a notification. A reply that is no longer waited for is
	// not an error.
	Answer(b ...[]byte) error
}

// ClientOptions are what a Client needs.
type ClientOptions struct {
	// Dial connects to the host. It may be called by several goroutines.
	Dial  func(context.Context) (net.Conn, error)
	Share string // the name of the share; "" is the only one
	Token []byte // the token that the host asks for, if any
	// Channels is how many requests channels there are, 1 to 4, with a Device for each. 0 is one
	// for each CPU.
	Channels int
	// Renewed, if not nil, is called on a goroutine of its own when a session that was gone has been replaced by
	// another one: the kernel knows nodes that the host does not.
	Renewed func()
	// Patience is how long a lost connection may stay away before Serve ends; 0 is for ever.
	Patience time.Duration
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger
}

// Client is the end of the machine that mounts.
type Client struct {
	opts     ClientOptions
	id       id
	channels []*clientChannel
	limits   welcome
	log      *slog.Logger

	begun    atomic.Bool // init is whole
	init     initRequest
	renewal  renewal
	renewing atomic.Bool // the channels meet in renew

	closing atomic.Bool
	failed  chan error // of a channel that can't continue

	deliveredMu sync.Mutex // for those that wait for what other channels deliver
	delivered   sync.Cond
	waiters     atomic.Int32
}

// dialTime is how long it may take to connect and to be welcomed.
const dialTime = 15 * time.Second

// Dial connects all channels of a new session. ctx is for this call only. The error is
// ErrRefused, ErrBusy, or that of a connection.
func Dial(ctx context.Context, o ClientOptions) (*Client, error) {
	if o.Channels == 0 {
		o.Channels = min(runtime.NumCPU(), maxChannels-1)
	}
	if o.Channels < 1 || o.Channels >= maxChannels {
		return nil, fmt.Errorf("%d channels: 1 to %d are possible", o.Channels, maxChannels-1)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	c := &Client{opts: o, id: newID(), log: o.Log, failed: make(chan error, maxChannels)}
	c.delivered.L = &c.deliveredMu
	c.renewal.changed.L = &c.renewal.mu
	for i := range o.Channels + 1 {
		ch := &clientChannel{client: c, index: i, out: newOutbox(), flight: make(map[uint64]flight)}
		ch.room.L = &ch.mu
		c.channels = append(c.channels, ch)
	}
	for _, ch := range c.channels {
		if err := ch.first(ctx); err != nil {
			c.Close()
			for _, ch := range c.channels {
				if ch.socket != nil {
					ch.socket.put()
				}
			}
			return nil, err
		}
	}
	return c, nil
}

// busyTime is how long Dial waits for a share that is in use: the host may not know yet that it was
// unmounted.
const (
	busyTime  = 3 * time.Second
	busyPause = 200 * time.Millisecond
)

// first makes the first connection of a channel.
func (ch *clientChannel) first(ctx context.Context) error {
	for began := time.Now(); ; time.Sleep(busyPause) {
		s, m, err := ch.dial(ctx, modeNew)
		switch {
		case err == nil:
			return ch.begin(s, m)
		case errors.Is(err, ErrBusy) && ch.index == 0, errors.Is(err, errLater):
			if ctx.Err() == nil && time.Since(began) < busyTime {
				continue
			}
		}
		return err
	}
}

// MaxRead is how many bytes of data one request may ask for, an option of the mount.
func (c *Client) MaxRead() uint32 { return c.limits.MaxWrite }

// Channels is how many devices Serve wants.
func (c *Client) Channels() int { return len(c.channels) - 1 }

// Serve carries what the devices read, one for each channel, to the host, and its replies
// back, until the file system was unmounted. Lost connections are made again, and so is a session that
// the host does not have any more: see ClientOptions.Renewed. The error is ErrStale, ErrRefused or ErrBusy when
// the host does not continue. Requests then remain unanswered until the devices are closed.
func (c *Client) Serve(devices []Device) error {
	if len(devices) != c.Channels() {
		return fmt.Errorf("%d devices for %d channels", len(devices), c.Channels())
	}
	for i, ch := range c.channels {
		ch.device = devices[max(i-1, 0)]
		go ch.receive()
	}
	ended := make(chan error, len(devices))
	for i := range devices {
		go func() { ended <- c.channels[i+1].carry() }()
	}
	for range devices {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
		case err := <-c.failed:
			return err
		}
	}
	return c.destroy()
}

// destroyTime is how long the host may take to end the session. It notices the end of
// the connections as well.
const destroyTime = 10 * time.Second

// destroy ends the session, which /dev/fuse does not ask for but a guest does.
func (c *Client) destroy() error {
	select {
	case <-c.channels[1].destroy():
	case <-time.After(destroyTime):
	case err := <-c.failed:
		return err
	}
	return nil
}

// Close ends the connections.
func (c *Client) Close() {
	c.closing.Store(true)
	for _, ch := range c.channels {
		ch.out.close()
	}
	c.wakeAll()
	go func() { // who begins another session holds it, and may be dialing
		c.renewal.mu.Lock()
		defer c.renewal.mu.Unlock()
		c.renewal.changed.Broadcast()
	}()
}

// wakeAll wakes up those that wait for what other channels deliver.
func (c *Client) wakeAll() {
	c.deliveredMu.Lock()
	defer c.deliveredMu.Unlock()
	c.delivered.Broadcast()
}

// fail has Serve return the error.
func (c *Client) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// tellDelivered is told that a channel has delivered a reply.
func (c *Client) tellDelivered() {
	if c.waiters.Load() == 0 {
		return
	}
	c.wakeAll()
}

// await waits until each channel has delivered so many replies.
func (c *Client) await(counts []uint64) {
	c.waiters.Add(1)
	defer c.waiters.Add(-1)
	c.deliveredMu.Lock()
	defer c.deliveredMu.Unlock()
	for i, ch := range c.channels {
		for ch.out.at().Received < counts[i] && !c.closing.Load() && !c.renewing.Load() {
			c.delivered.Wait()
		}
	}
}

// Pauses between two attempts to connect.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 2 * time.Second
)

// reconnect makes the channel's connection again. If the session is gone it begins another one, together with
// the other channels.
func (ch *clientChannel) reconnect() error {
	err := ch.resume()
	if errors.Is(err, ErrStale) || errors.Is(err, errRenew) {
		err = ch.client.renew(err)
	}
	return err
}

// resume continues the channel over a new connection.
func (ch *clientChannel) resume() error {
	c := ch.client
	w := newWait(c)
	for {
		if c.closing.Load() {
			return net.ErrClosed
		}
		s, m, err := ch.dial(context.Background(), modeResume)
		if err == nil {
			err = ch.attach(s, m)
		}
		switch {
		case c.renewing.Load():
			if err == nil {
				ch.out.detach(s)
				ch.socket.put()
			}
			return errRenew
		case err == nil:
			return nil
		case errors.Is(err, ErrStale), errors.Is(err, ErrRefused), errors.Is(err, ErrBusy):
			return err
		}
		if err := w.after(err); err != nil {
			return err
		}
	}
}

// wait is for attempts to connect.
type wait struct {
	client *Client
	lost   time.Time
	pause  time.Duration
}

func newWait(c *Client) *wait { return &wait{c, time.Now(), firstPause} }

// after waits until it is time for the next attempt. It returns an error if there is none.
func (w *wait) after(err error) error {
	if p := w.client.opts.Patience; p > 0 && time.Since(w.lost) > p {
		return fmt.Errorf("no connection for %v: %w", p, err)
	}
	if w.pause == lastPause {
		w.client.log.Debug(fmt.Sprintf("No connection yet: %v", err))
	}
	time.Sleep(w.pause)
	w.pause = min(2*w.pause, lastPause)
	return nil
}
