package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/relay"
)

// Packets of a channel between a Remote and Serve. The Remote sends the number of each Mount; all else comes from Serve.
type packet struct {
	Number  uint64
	Done    bool   `json:",omitempty"` // no process is left of the program that Number has started
	Error   string `json:",omitempty"` // why it has mounted nothing; with Done why it has ended, if that is known
	Type    string `json:",omitempty"`
	Source  string `json:",omitempty"`
	Flags   uint64 `json:",omitempty"`
	Options string `json:",omitempty"`
	Process uint32 `json:",omitempty"`
}

// maxPacket is more than a packet has: three strings of mount(2), each byte of which may take six in JSON.
const maxPacket = 64 << 10

// Remote is a relay.Source for a process that can't start programs itself, because it is confined: another one does,
// with Serve, at the other end of a channel. Close it when it is not needed any more.
type Remote struct {
	conn *net.UnixConn

	mu     sync.Mutex
	number uint64
	reply  chan result // of the Mount that waits; nil without
	done   map[uint64]*ending
	err    error // of the channel
}

// ending is the end of a program.
type ending struct {
	c   chan struct{} // closed then
	err error         // written before that; nil if nobody knows why
}

type result struct {
	mounted *relay.Mounted
	err     error
}

// NewRemote takes one end of a connected SOCK_SEQPACKET pair.
func NewRemote(conn *net.UnixConn) *Remote {
	r := &Remote{conn: conn, done: map[uint64]*ending{}}
	go r.listen()
	return r
}

// Close closes the channel.
func (r *Remote) Close() error { return r.conn.Close() }

// Mount implements relay.Source. One Mount at a time is possible.
func (r *Remote) Mount(ctx context.Context) (*relay.Mounted, error) {
	reply := make(chan result, 1)
	r.mu.Lock()
	if r.err != nil {
		r.mu.Unlock()
		return nil, r.err
	}
	r.number++
	r.reply = reply
	b, err := json.Marshal(packet{Number: r.number})
	if err == nil {
		_, err = r.conn.Write(b)
	}
	r.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("ask for the program: %w", err)
	}
	select {
	case m := <-reply:
		return m.mounted, m.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case m := <-reply:
		return m.mounted, m.err
	default:
	}
	r.reply = nil
	return nil, context.Cause(ctx)
}

// listen takes what Serve sends.
func (r *Remote) listen() {
	b, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
	for {
		n, nr, _, _, err := r.conn.ReadMsgUnix(b, rights)
		if err == nil && n == 0 {
			err = errors.New("the process that starts the program has ended")
		}
		if err != nil {
			r.ended(err)
			return
		}
		var p packet
		fd, fdErr := oneFD(rights[:nr])
		if err := json.Unmarshal(b[:n], &p); err != nil {
			p.Error = "a packet that makes no sense has come"
		}
		r.take(p, fd, fdErr)
	}
}

// take takes a packet and a descriptor, if fdErr is nil.
func (r *Remote) take(p packet, fd int, fdErr error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Done {
		if e, ok := r.done[p.Number]; ok {
			if p.Error != "" {
				e.err = errors.New(p.Error)
			}
			close(e.c)
			delete(r.done, p.Number)
		}
		return
	}
	if r.reply == nil || p.Number != r.number { // given up meanwhile
		if fdErr == nil {
			_ = unix.Close(fd)
		}
		return
	}
	switch {
	case p.Error != "":
		r.reply <- result{err: errors.New(p.Error)}
	case fdErr != nil:
		r.reply <- result{err: fdErr}
	default:
		_ = unix.SetNonblock(fd, true)
		e := &ending{c: make(chan struct{})}
		r.done[p.Number] = e
		r.reply <- result{mounted: &relay.Mounted{Socket: os.NewFile(uintptr(fd), "FUSE program"), Type: p.Type, Source: p.Source,
			Flags: uintptr(p.Flags), Options: p.Options, Process: p.Process, Done: e.c, Err: func() error {
				<-e.c
				return e.err
			}}}
	}
	r.reply = nil
}

func (r *Remote) ended(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if r.reply != nil {
		r.reply <- result{err: err}
		r.reply = nil
	}
	for n, e := range r.done {
		close(e.c)
		delete(r.done, n)
	}
}

// Serve starts the program whenever the Remote at the other end of conn asks for it, until the other end is closed (then
// it returns nil) or ctx ends. first, if it is not nil, is what the first request gets. It returns an error as soon as
// it is no use to start the program again.
func Serve(ctx context.Context, conn *net.UnixConn, p *Program, first *relay.Mounted) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	b := make([]byte, maxPacket)
	for {
		n, err := conn.Read(b)
		if err != nil || n == 0 {
			return context.Cause(ctx)
		}
		var asked packet
		if err := json.Unmarshal(b[:n], &asked); err != nil {
			return fmt.Errorf("channel of the relay: %w", err)
		}
		m := first
		first = nil
		if m == nil {
			m, err = p.Mount(ctx)
		}
		if err := send(conn, asked.Number, m, err); err != nil {
			return err
		}
		if errors.Is(err, ErrTwice) {
			return err
		}
	}
}

// send answers a Mount, and tells the end of the program later.
func send(conn *net.UnixConn, number uint64, m *relay.Mounted, failed error) error {
	p := packet{Number: number}
	if failed != nil {
		p.Error = failed.Error()
		return write(conn, p, nil)
	}
	p.Type, p.Source, p.Flags, p.Options, p.Process = m.Type, m.Source, uint64(m.Flags), m.Options, m.Process
	raw, err := m.Socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = write(conn, p, unix.UnixRights(int(fd))) }); err != nil {
		return err
	}
	_ = m.Socket.Close()
	go func() {
		<-m.Done
		end := packet{Number: number, Done: true}
		if m.Err != nil {
			if err := m.Err(); err != nil {
				end.Error = err.Error()
			}
		}
		_ = write(conn, end, nil)
	}()
	return sent
}

func write(conn *net.UnixConn, p packet, rights []byte) error {
	b, err := json.Marshal(p)
	if err == nil {
		_, _, err = conn.WriteMsgUnix(b, rights, nil)
	}
	return err
}
