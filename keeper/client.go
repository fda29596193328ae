package keeper

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// Client is a worker's side. All methods may be called from any goroutine. A nil *Client is that of a
// process without a keeper: it keeps nothing, and nothing fails.
type Client struct {
	socket   int
	patience time.Duration // see keepPatience
	replied  atomic.Bool

	mu       sync.Mutex // the order of messages is that of calls; a leaf
	start    Start
	held     map[Key]bool // what the keeper has, when it has read all messages
	came     map[Key]int  // descriptors that Receive has got and that were not taken
	late     []Key        // to be dropped, and not sent yet
	sending  bool         // a goroutine sends late
	stuck    bool         // a message could not be sent in patience
	accepted chan int     // connections that Accept waits for
	early    Order        // what the keeper has ordered before the worker listened
}

// Start is what the keeper tells a worker at its start.
type Start struct {
	Generation uint64 // from 1 on
	// Limit is how many descriptors the keeper holds at most.
	Limit int
	// Fail has the worker answer all requests under way with EIO: workers before it have died when
	// they took them over.
	Fail bool
	// Killed says that the worker before this one was killed from outside, or has left in order. What
	// was under way is hardly the cause of that.
	Killed bool
	// Stored says that the next start of the service gets what the keeper holds, also if the keeper is killed.
	Stored bool
	// Accepts says that the keeper accepts front-ends, see Client.Accept.
	Accepts bool
}

// ErrLimit is wrapped by Keep's error if the keeper holds as many descriptors as it can.
var ErrLimit = errors.New("the keeper holds as many descriptors as it can")

// ErrBusy is wrapped by Keep's error if the keeper does not take messages, for example because it is
// stopped.
var ErrBusy = errors.New("the keeper does not take messages")

// NewClient is the client of a worker whose end of the connection to the keeper is socket. It owns
// the descriptor until the process ends.
func NewClient(socket int) *Client {
	unix.CloseOnExec(socket)
	return &Client{socket: socket, patience: keepPatience, held: map[Key]bool{}, came: map[Key]int{}, accepted: make(chan int, 1)}
}

// Receive takes over what the keeper holds. The worker calls it once, in its sandbox, under its system
// call filter and without the privileges that it does not need. After it Kept has the descriptors.
// It returns an error if the keeper does not send all within a time.
func (c *Client) Receive(timeout time.Duration) (Start, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(timeout)
	for {
		m, err := receive(c.socket, fdstat.Close)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := wait(c.socket, unix.POLLIN, time.Until(deadline)); err != nil {
				return Start{}, fmt.Errorf("keeper: take over: %w", err)
			}
		case err != nil:
			return Start{}, fmt.Errorf("keeper: take over: %w", err)
		case m.op == opKept:
			if old, twice := c.came[m.key]; twice {
				fdstat.Close(old)
			}
			c.came[m.key], c.held[m.key] = m.fd, true
		case m.op == opBegin:
			c.start = Start{Generation: m.words[0], Limit: int(m.words[1]), Fail: m.words[2]&beginFail != 0, Killed: m.words[2]&beginKilled != 0,
				Stored: m.words[2]&beginStored != 0, Accepts: m.words[2]&beginAccepts != 0}
			return c.start, nil
		case m.op == opEnd, m.op == opPark:
			c.early = orderOf(m.op)
		default:
			if m.fd >= 0 {
				fdstat.Close(m.fd)
			}
			return Start{}, fmt.Errorf("keeper: take over: message %d", m.op)
		}
	}
}

// Order is what the keeper has a worker do.
type Order int

// The orders.
const (
	_ Order = iota
	// OrderEnd: the session ends, and the process.
	OrderEnd
	// OrderPark: the process ends, and leaves everything to a successor, which may be another version
	// of the program. It takes no more requests, and waits a moment for those under way. It ends with
	// StatusParked.
	OrderPark
)

func orderOf(o op) Order {
	switch o {
	case opEnd:
		return OrderEnd
	case opPark:
		return OrderPark
	}
	return 0
}

// Listen has obey called with each order, on a goroutine of its own. OrderEnd is the last one; it also
// comes when the keeper is gone. Listen is called once, after Receive.
func (c *Client) Listen(obey func(Order)) error {
	fd, err := unix.FcntlInt(uintptr(c.socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	_ = unix.SetNonblock(fd, true) // then it takes no thread to wait
	f := os.NewFile(uintptr(fd), "channel")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return err
	}
	go func() {
		defer f.Close()
		if c.early != 0 { // no other goroutine writes it any more
			obey(c.early)
		}
		for order := c.early; order != OrderEnd; {
			order = OrderEnd
			_ = raw.Read(func(fd uintptr) bool {
				m, err := receive(int(fd), fdstat.Close)
				for err == nil && orderOf(m.op) == 0 || errors.Is(err, errForm) {
					if err == nil {
						c.arrived(&m)
					}
					m, err = receive(int(fd), fdstat.Close)
				}
				if err == nil {
					order = orderOf(m.op)
				}
				return !errors.Is(err, unix.EAGAIN)
			})
			obey(order)
		}
	}()
	return nil
}

// wait waits until a socket is ready for events. Its error after the time wraps ErrBusy.
func wait(socket int, events int16, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		left := max(time.Until(deadline), 0)
		ts := unix.NsecToTimespec(int64(left))
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(socket), Events: events}}, &ts, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("ppoll", err)
		case n > 0:
			return nil
		case left == 0:
			return ErrBusy
		}
	}
}

// Left reports whether everything is left to the next start of the service, because the keeper is gone, or is so within
// a time: its threads end one after the other, and the first of them may send the signal for its death.
func (c *Client) Left(within time.Duration) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	stored := c.start.Stored
	c.mu.Unlock()
	return stored && wait(c.socket, 0, within) == nil // there is no event but the end
}

// Kept are the descriptors that came with Receive and that were not taken yet.
func (c *Client) Kept() []Key {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make([]Key, 0, len(c.came))
	for k := range c.came {
		keys = append(keys, k)
	}
	return keys
}

// Take takes a descriptor that came with Receive. The caller owns it and must close it. The
// keeper holds its copy until Drop. ok is false if there is none, or it was already taken.
func (c *Client) Take(k Key) (fd int, ok bool) {
	if c == nil {
		return -1, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, ok = c.came[k]
	if !ok {
		return -1, false
	}
	delete(c.came, k)
	return fd, true
}

// keepPatience is Client.patience: how long Keep waits for a keeper that does not keep up, as on a machine with much other work.
// After it has waited in vain, calls fail at once until the keeper has taken messages again.
const keepPatience = 10 * time.Second

// Keep gives the keeper a copy of fd under a key, which replaces an older one. The caller keeps
// fd. When Keep has returned nil, a successor gets the descriptor, even if this process dies. If
// the keeper is too slow, all calls together wait for at most ten seconds. The error then wraps
// ErrBusy, and the keeper holds what it had. ErrLimit means that it holds too many.
func (c *Client) Keep(k Key, fd int) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held[k] && len(c.held) >= c.start.Limit {
		return fmt.Errorf("keeper: %w: %d", ErrLimit, c.start.Limit)
	}
	if err := c.send(&message{op: opKeep, key: k, fd: fd}); err != nil {
		return fmt.Errorf("keeper: hold %s: %w", k, err)
	}
	c.held[k] = true
	return nil
}

// Drop makes the keeper close the descriptor of a key, if there is one. It does not wait: if the
// keeper is too slow, it closes the descriptor later.
func (c *Client) Drop(k Key) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fd, ok := c.came[k]; ok {
		delete(c.came, k)
		fdstat.Close(fd)
	}
	if !c.held[k] {
		return
	}
	delete(c.held, k)
	c.late = append(c.late, k)
	if c.sendLate() != nil && !c.sending {
		c.sending = true
		go c.keepSending()
	}
}

// DropAll is Drop for all keys of these kinds, for example of a front-end that is gone.
func (c *Client) DropAll(kinds ...Kind) {
	if c == nil {
		return
	}
	for _, k := range c.holds() {
		if slices.Contains(kinds, k.Kind) {
			c.Drop(k)
		}
	}
}

// holds are the keys of what the keeper holds.
func (c *Client) holds() []Key {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.held))
}

// sendLate sends what is to be dropped, without waiting. The caller has mu.
func (c *Client) sendLate() error {
	for len(c.late) > 0 {
		if err := send(c.socket, &message{op: opDrop, key: c.late[0], fd: -1}); err != nil {
			return err
		}
		c.late, c.stuck = c.late[1:], false
	}
	c.late = nil
	return nil
}

// keepSending sends what is late when the keeper takes messages again.
func (c *Client) keepSending() {
	for {
		err := wait(c.socket, unix.POLLOUT, time.Minute)
		c.mu.Lock()
		if err == nil {
			err = c.sendLate()
		}
		if err == nil || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, ErrBusy) { // all sent, or the keeper is gone
			c.sending = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// send sends a message after those that are late. The caller has mu.
func (c *Client) send(m *message) error {
	deadline := time.Now().Add(c.patience)
	for {
		err := c.sendLate()
		if err == nil {
			err = send(c.socket, m)
		}
		crowd := errors.Is(err, unix.ETOOMANYREFS)
		switch {
		case err == nil:
			c.stuck = false
			return nil
		case !crowd && !errors.Is(err, unix.EAGAIN):
			return os.NewSyscallError("sendmsg", err)
		case c.stuck:
			return ErrBusy
		case crowd && time.Now().Before(deadline):
			time.Sleep(crowded)
			continue
		case crowd:
			c.stuck = true
			return ErrBusy
		}
		if err := wait(c.socket, unix.POLLOUT, time.Until(deadline)); err != nil {
			c.stuck = errors.Is(err, ErrBusy)
			return err
		}
	}
}

// Serving says that the worker serves. If it dies from now on, that is not the fault of taking over.
func (c *Client) Serving() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &message{op: opServing, fd: -1}
	if err := c.send(m); err != nil {
		return fmt.Errorf("keeper: say that it serves: %w", err)
	}
	return nil
}

// Replied says that a request was answered. Only the first call does something: by it the keeper knows how
// long the guest has waited.
func (c *Client) Replied() {
	if c == nil || c.replied.Load() || c.replied.Swap(true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sendLate() == nil {
		_ = send(c.socket, &message{op: opReplied, fd: -1}) // only a line in a log depends on it
	}
}
