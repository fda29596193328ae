package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// rootID is the node of the shared directory (FUSE_ROOT_ID).
const rootID = 1

// session is one target, connected.
type session struct {
	ctx     context.Context
	target  *Target
	name    string // the target's, with a number if it has several guests
	guest   int    // its number
	opts    *Options
	files   *files
	client  *frontend.Client
	daemon  *daemon // nil if it ran already
	scratch string
	pids    []int             // whose processor time counts
	nodes   map[string]uint64 // directories and large files by name, looked up once
	unwatch func() bool       // takes the connection off the context; nil without a context
}

// openSession starts the target's daemon, unless it runs already, and connects.
func openSession(ctx context.Context, t *Target, o *Options) (*session, error) {
	s := &session{ctx: ctx, target: t, name: t.Name, opts: o, nodes: map[string]uint64{}}
	if err := s.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", t.Name, err), s.close())
	}
	return s, nil
}

// start starts and connects. From then on the connection ends with the context. This wakes
// goroutines that wait for the back-end: Client and Pipe notice that the connection ended.
func (s *session) start() error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	s.unwatch = context.AfterFunc(s.ctx, func() { _ = conn.CloseRead() })
	var silent atomic.Bool
	limit := time.AfterFunc(answerTimeout, func() {
		silent.Store(true)
		_ = conn.CloseRead()
	})
	defer limit.Stop()
	switch err = s.handshake(conn); {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case err != nil && silent.Load():
		return s.saying(s.silence())
	case err != nil:
		return s.explain(err)
	}
	return s.findProcesses()
}

// answerTimeout is how long a back-end that listens may take until it has a session.
var answerTimeout = startTimeout // tests change it

// silence is the error of a back-end that listens and does not answer.
func (s *session) silence() error {
	if s.daemon != nil {
		return fmt.Errorf("the daemon listens, but has not set the device up within %v: is it a vhost-user-fs back-end, and not stopped?", answerTimeout)
	}
	return fmt.Errorf("%s listens, but has not answered for %v: most back-ends serve one front-end at a time; "+
		"stop the VMM that uses it, or let bench start one of its own with --daemon", s.target.Socket, answerTimeout)
}

func (s *session) handshake(conn *net.UnixConn) error {
	o := s.opts
	fe, err := frontend.Connect(conn, frontend.Options{Queues: o.Queues, QueueSize: uint16(o.QueueSize), Slots: o.maxDepth(),
		Data: o.dataSize(), Indirect: !o.NoIndirect, NoIndirect: o.NoIndirect, NoEventIdx: o.NoEventIdx, Chunk: o.Chunk})
	if err != nil {
		return fmt.Errorf("set the device up: %w", err)
	}
	if err = fe.CheckQueues(); err == nil {
		err = fe.Start()
	}
	if err != nil {
		fe.Close()
		return fmt.Errorf("set the device up: %w", err)
	}
	s.client = frontend.NewClient(fe)
	if err := s.client.Handshake(frontend.AllFlags); err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	if most := int(s.client.Init.MaxWrite); most < o.dataSize() {
		return fmt.Errorf("the back-end takes writes of %d bytes at most, and %d are wanted", most, o.dataSize())
	}
	return nil
}

func (s *session) connect() (*net.UnixConn, error) {
	if s.target.Command == "" {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.target.Socket, Net: "unix"})
		if errors.Is(err, unix.EAGAIN) {
			err = fmt.Errorf("%w: others wait for this back-end already", err)
		}
		return conn, err
	}
	var err error
	if s.scratch, err = os.MkdirTemp("", "govirtiofs-bench-"); err != nil {
		return nil, err
	}
	if s.daemon, err = startDaemon(s.target, s.scratch, s.opts.Dir); err != nil {
		return nil, err
	}
	return s.daemon.connect(s.ctx)
}

// explain adds to an error how the daemon has ended, if it has, and its output.
func (s *session) explain(err error) error {
	if err == nil || s.daemon == nil || s.ctx.Err() != nil {
		return err
	}
	if endedConnection(err) {
		select { // the connection ends before the process, and before all of its output is here
		case <-s.daemon.ended:
			err = fmt.Errorf("%w: the daemon has ended: %v", err, s.daemon.cmd.ProcessState)
		case <-time.After(2 * time.Second):
		}
	}
	return s.saying(err)
}

// saying adds the daemon's output to an error.
func (s *session) saying(err error) error {
	if s.daemon == nil {
		return err
	}
	return s.daemon.saying(err)
}

// endedConnection reports whether an error is the consequence of a back-end that has
// ended.
func endedConnection(err error) bool {
	for _, e := range []error{frontend.ErrGone, io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// alive returns an error if the back-end has ended the connection.
func (s *session) alive() error {
	if s.client.HungUp() {
		return fmt.Errorf("%s: %w", s.name, s.explain(frontend.ErrGone))
	}
	return nil
}

// findProcesses finds the processes whose time is measured. It is called when all
// children that the daemon starts for its sandbox exist.
func (s *session) findProcesses() (err error) {
	pid := s.target.PID
	if pid == 0 && s.daemon != nil {
		pid = s.daemon.cmd.Process.Pid
	}
	if pid == 0 {
		if pid, err = s.client.PeerPID(); err != nil {
			return fmt.Errorf("find the back-end's process: %w", err)
		}
	}
	s.pids = append([]int{pid}, tasks.Descendants(pid)...)
	_, err = treeCPU(s.pids)
	switch {
	case err != nil && s.target.PID != 0:
		return fmt.Errorf("--pid %d: there is no such process here", pid)
	case err != nil:
		return fmt.Errorf("%w (is it in another PID namespace? name it with --pid)", err)
	}
	return nil
}

// findFiles looks up the files that prepare has made. If they are there, the
// back-end shares the right directory.
func (s *session) findFiles(f *files) error {
	s.files = f
	e, err := s.client.Lookup(rootID, s.files.name)
	if err != nil {
		return fmt.Errorf("look up %s: %w (does the back-end share %s?)", s.files.name, err, s.opts.Dir)
	}
	s.nodes[""] = e.NodeID
	for _, name := range f.made {
		e, err := s.client.Lookup(s.nodes[""], name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", filepath.Join(s.files.name, name), err)
		}
		s.nodes[name] = e.NodeID
	}
	return nil
}

// lookupAll looks up n files of a prepared directory.
func (s *session) lookupAll(dir string, n int) (nodes []uint64, err error) {
	for i := range n {
		e, err := s.client.Lookup(s.nodes[dir], fileName(i))
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", filepath.Join(dir, fileName(i)), err)
		}
		nodes = append(nodes, e.NodeID)
	}
	return nodes, nil
}

// open opens a prepared file.
func (s *session) open(name string, flags uint32) (uint64, error) {
	fh, err := s.client.Open(s.nodes[name], flags)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	return fh, nil
}

// create makes a file for one slot.
func (s *session) create(name string) (node, fh uint64, err error) {
	out, err := s.client.Create(s.nodes["tmp"], name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return 0, 0, fmt.Errorf("create %s: %w", name, err)
	}
	return out.Entry.NodeID, out.Open.Fh, nil
}

// close ends the session and a daemon that was started for it. It does this quickly if the
// context has ended.
func (s *session) close() error {
	if s.unwatch != nil {
		s.unwatch()
	}
	if s.client != nil {
		s.client.Frontend.Close()
	}
	if s.daemon != nil {
		s.daemon.stop(s.ctx.Err() != nil)
	}
	if s.scratch != "" {
		return os.RemoveAll(s.scratch)
	}
	return nil
}

// closeSessions ends them at the same time, because each may wait for its daemon.
func closeSessions(list []*session) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() { errs[i] = s.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// The flags of OPEN as they are on the wire.
const readOnly, readWrite uint32 = unix.O_RDONLY, unix.O_RDWR
