package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/internal/accept"
)

const (
	// helloTime is how long a connection may take until its hello is there.
	helloTime = 10 * time.Second
	// maxHellos is the number of connections that may be without a hello. One more ends
	// the oldest of them, so that processes that connect and send nothing do not keep
	// others out.
	maxHellos = 16
	// maxNamed is how many names of shares a guest is told of when it asks for another one.
	maxNamed = 10
)

// port is a listener, and the servers that its connections are for. The hello's name of a share
// says for which.
type port struct {
	servers []*Server
	names   map[string]*Server
	refused rate.Sometimes
	equal   refusals

	mu     sync.Mutex // guards the following; a leaf
	hellos []net.Conn // that have said nothing yet, the oldest first
}

func newPort(servers []*Server) (*port, error) {
	p := &port{servers: servers, names: make(map[string]*Server), refused: rate.Sometimes{First: 10, Interval: time.Second}}
	if len(servers) == 0 {
		return nil, errors.New("no share to serve")
	}
	for _, s := range servers {
		name := s.opts.Share
		if name == "" && len(servers) > 1 {
			return nil, errors.New("a share without a name can't have a port together with others")
		}
		if p.names[name] != nil {
			return nil, fmt.Errorf("two shares have the name %q", name)
		}
		p.names[name] = s
	}
	return p, nil
}

// ServeAll serves several shares, each with a Server, over the connections of one listener: the
// guest says which share it wants by Options.Share. It continues until ctx ends or the
// listener fails, and ends all sessions then. The listener is closed. An error at once says that
// two servers have the same name, or that one has none.
func ServeAll(ctx context.Context, l net.Listener, servers ...*Server) error {
	defer func() { _ = l.Close() }()
	p, err := newPort(servers)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer p.finish()
	for {
		c, err := accept.Next(ctx, l.Accept, func(err error) {
			p.refused.Do(func() { servers[0].log.Warn(fmt.Sprintf("A guest can't connect for now: %v", err)) })
		})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		p.accept(c)
	}
}

// finish ends all sessions, at the same time: each may take a while to be saved.
func (p *port) finish() {
	p.mu.Lock()
	for _, c := range p.hellos {
		_ = c.Close()
	}
	p.mu.Unlock()
	var all sync.WaitGroup
	for _, s := range p.servers {
		all.Go(s.finish)
	}
	all.Wait()
}

// accept lets a connection say its hello, if its address may for any share.
func (p *port) accept(c net.Conn) {
	var first error
	for _, s := range p.servers {
		_, err := s.opts.Admit(c.RemoteAddr())
		if err == nil {
			first = nil
			break
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		p.refuse(c, statusRefused, first)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hellos) == maxHellos {
		_ = p.hellos[0].Close()
		p.hellos = p.hellos[1:]
	}
	p.hellos = append(p.hellos, c)
	go p.greet(c)
}

// refuse answers a hello, which may not have been read, with the reason.
func (p *port) refuse(c net.Conn, why status, err error) {
	from := describe(c)
	guest := from
	if i := strings.LastIndexByte(from, ':'); i >= 0 {
		guest = from[:i] // each of its connections has another port
	}
	if more, ok := p.equal.tell(guest+": "+err.Error(), time.Now()); ok {
		p.refused.Do(func() { p.servers[0].log.Warn(fmt.Sprintf("Connection from %s refused: %v%s", from, err, more)) })
	}
	p.answer(c, why, err)
}

// answer answers a hello with the reason why it is refused.
func (p *port) answer(c net.Conn, why status, err error) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_ = writeWelcome(c, welcome{Status: why}, err.Error())
	_ = c.Close()
}

func describe(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "the VMM's socket"
}

// greet reads the hello, and answers it.
func (p *port) greet(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(helloTime))
	h, share, token, err := readHello(c)
	p.mu.Lock()
	p.hellos = slices.DeleteFunc(p.hellos, func(o net.Conn) bool { return o == c })
	p.mu.Unlock()
	if err != nil {
		p.refuse(c, statusRefused, err)
		return
	}
	s, err := p.choose(share, token)
	if err != nil {
		p.refuse(c, statusRefused, err)
		return
	}
	guest, err := s.opts.Admit(c.RemoteAddr())
	if err != nil {
		p.refuse(c, statusRefused, err)
		return
	}
	switch why, err := s.join(c, guest, h, share, token); {
	case err == nil:
	case why == statusStale && s.opts.Renew: // the guest begins another session at once, which find tells
		s.log.Debug(fmt.Sprintf("Connection from %s refused: %v", describe(c), err))
		p.answer(c, why, err)
	default:
		p.refuse(c, why, err)
	}
}

// choose returns the server of a share. Only a guest that knows a token is told which shares there are.
func (p *port) choose(share string, token []byte) (*Server, error) {
	if len(p.servers) == 1 {
		return p.servers[0], nil // it says by itself what is wrong
	}
	if s := p.names[share]; s != nil {
		return s, nil
	}
	var unknown error
	for _, s := range p.servers {
		if unknown = s.checkToken(token); unknown == nil {
			break
		}
	}
	switch {
	case unknown != nil:
		return nil, unknown
	case share == "":
		return nil, fmt.Errorf("which share? There are %s", p.list())
	}
	return nil, fmt.Errorf("no share %q here: there are %s", share, p.list())
}

// list is the names of the shares.
func (p *port) list() string {
	var names []string
	for _, s := range p.servers[:min(len(p.servers), maxNamed)] {
		names = append(names, fmt.Sprintf("%q", s.opts.Share))
	}
	if more := len(p.servers) - maxNamed; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
