package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Answer has the back-end's answers.
type Answer struct {
	Features uint64
	Protocol vu.ProtocolFeatures
	Queues   uint64 // GET_QUEUE_NUM: the queue for urgent requests and the request queues
	Tag      string // of its configuration space, "" without one
	ConfigRQ uint32 // request queues, according to the configuration space
	Init     fp.InitOut
	Took     time.Duration // of INIT
}

// askTime is how long a back-end may take for everything. One that serves another
// front-end does not answer at all.
const askTime = 5 * time.Second

// Ask connects to a back-end as a VMM would, and mounts. It ends a daemon
// without --keep-listening; therefore the user must ask for it.
func Ask(path string) (*Answer, error) {
	c, err := net.DialTimeout("unix", path, askTime)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(askTime)); err != nil {
		c.Close()
		return nil, err
	}
	f, err := frontend.New(c.(*net.UnixConn), frontend.Options{Slots: 1, Data: 4096})
	if err != nil {
		return nil, fmt.Errorf("vhost-user: %w", err)
	}
	defer f.Close()
	a := &Answer{Protocol: f.Protocol}
	if a.Features, err = f.GetU64(vu.ReqGetFeatures); err != nil {
		return a, fmt.Errorf("vhost-user: features: %w", err)
	}
	if f.Protocol&vu.ProtocolMQ != 0 {
		if a.Queues, err = f.GetU64(vu.ReqGetQueueNum); err != nil {
			return a, fmt.Errorf("vhost-user: queues: %w", err)
		}
	}
	if f.Protocol&vu.ProtocolConfig != 0 {
		if err := a.config(f); err != nil {
			return a, fmt.Errorf("vhost-user: configuration space: %w", err)
		}
	}
	return a, a.mount(f)
}

// tagSize is the size of a share's name in the configuration space (virtio 1.2,
// 5.11.4 Device configuration layout).
const tagSize = 36

// config reads the configuration space.
func (a *Answer) config(f *frontend.Frontend) error {
	const header, space = 12, tagSize + 4
	req := make([]byte, header+space)
	binary.NativeEndian.PutUint32(req[4:], space)
	b, err := f.Call(vu.ReqGetConfig, req)
	if err != nil {
		return err
	}
	if len(b) < header+space {
		return fmt.Errorf("%d bytes, want %d", len(b), header+space)
	}
	tag, _, _ := strings.Cut(string(b[header:header+tagSize]), "\x00")
	a.Tag, a.ConfigRQ = tag, binary.LittleEndian.Uint32(b[header+tagSize:])
	return nil
}

// mount sends INIT and DESTROY. The queue has no deadline of its own, so a back-end
// that never answers is left after askTime.
func (a *Answer) mount(f *frontend.Frontend) error {
	client := frontend.NewClient(f)
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- client.Handshake(frontend.AllFlags) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("INIT: %w", err)
		}
	case <-time.After(askTime):
		return fmt.Errorf("INIT: no answer in %v", askTime)
	}
	a.Took, a.Init = time.Since(start), client.Init
	if err := client.Destroy(); err != nil {
		return fmt.Errorf("DESTROY: %w", err)
	}
	return nil
}

// ExamineAnswer adds findings about a back-end's answers to a report. err is the error
// of Ask. s is the socket that Gather has found, or nil.
func ExamineAnswer(r *Report, s *Socket, a *Answer, err error) {
	if a != nil {
		r.ok("probe.vhost-user", "features %#x, protocol features %v", a.Features, a.Protocol)
		if a.Queues > 1 {
			r.ok("probe.queues", "up to %d request queues", a.Queues-1)
		} else {
			r.ok("probe.queues", "one request queue")
		}
		if a.Tag == "" {
			r.ok("probe.tag", "no tag: for crosvm and User-Mode Linux give the daemon --tag NAME")
		} else {
			r.ok("probe.tag", "tag %q, %d request queues in the configuration space", a.Tag, a.ConfigRQ)
		}
	}
	if err != nil {
		r.noAnswer(s, err)
		return
	}
	r.ok("probe.fuse", "FUSE %d.%d, requests up to %d KiB, answered in %v",
		a.Init.Major, a.Init.Minor, a.Init.MaxWrite/1024, a.Took.Round(time.Microsecond))
}

// noAnswer says why a back-end has not answered. A back-end that serves another front-end
// leaves a new connection waiting, or has closed its socket. That is no fault.
func (r *Report) noAnswer(s *Socket, err error) {
	what := withoutAddresses(err)
	timeout, refused := errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ECONNREFUSED)
	if timeout {
		what = fmt.Sprintf("no answer in %v", askTime)
	}
	if (timeout || refused) && s != nil && s.Connected > 0 {
		r.add(Fail, "probe", "probe it when that has ended; a second VMM needs a daemon of its own, with another --socket-path",
			"%s: %s %s busy with %s", what, processes(s.Owners), verb(s.Owners, "is", "are"), processes(s.Front))
		return
	}
	r.add(Fail, "probe", "see the daemon's messages; a daemon that already serves a VMM does not answer others", "%s", what)
}

// withoutAddresses removes the addresses from the errors of a connection. The daemon's
// end may have a name that its socket had only for a moment, and our end has none.
func withoutAddresses(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op == "dial" {
		return err.Error()
	}
	return strings.Replace(err.Error(), op.Error(), op.Op+": "+op.Err.Error(), 1)
}
