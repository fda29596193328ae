package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
)

// rootID is the node of the shared directory (FUSE_ROOT_ID).
const rootID = 1

// session is one target, connected.
type session struct {
	target  *Target
	name    string // the target's, with a number if it has several guests
	opts    *Options
	files   *files
	client  *frontend.Client
	daemon  *daemon // nil if it ran already
	scratch string
	pids    []int             // whose processor time counts
	nodes   map[string]uint64 // directories and large files by name, looked up once
}

// openSession starts a target if it has to be, and connects.
func openSession(ctx context.Context, t *Target, o *Options) (*session, error) {
	s := &session{target: t, name: t.Name, opts: o, nodes: map[string]uint64{}}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", t.Name, err), s.close())
	}
	return s, nil
}

func (s *session) start(ctx context.Context) error {
	o := s.opts
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	fe, err := frontend.New(conn, frontend.Options{Queues: o.Queues, QueueSize: uint16(o.QueueSize), Slots: o.maxDepth(),
		Data: o.dataSize(), Indirect: !o.NoIndirect, NoIndirect: o.NoIndirect, NoEventIdx: o.NoEventIdx, Chunk: o.Chunk})
	if err != nil {
		return fmt.Errorf("set the device up: %w", s.explain(err))
	}
	s.client = frontend.NewClient(fe)
	if err := s.client.Handshake(frontend.AllFlags); err != nil {
		return fmt.Errorf("INIT: %w", s.explain(err))
	}
	if most := int(s.client.Init.MaxWrite); most < o.dataSize() {
		return fmt.Errorf("the back-end takes writes of %d bytes at most, and %d are wanted", most, o.dataSize())
	}
	return s.findProcesses()
}

func (s *session) connect(ctx context.Context) (*net.UnixConn, error) {
	if s.target.Command == "" {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: s.target.Socket, Net: "unix"})
	}
	var err error
	if s.scratch, err = os.MkdirTemp("", "govirtiofs-bench-"); err != nil {
		return nil, err
	}
	if s.daemon, err = startDaemon(s.target, s.scratch, s.opts.Dir); err != nil {
		return nil, err
	}
	return s.daemon.connect(ctx)
}

// explain adds what a daemon said before it ended.
func (s *session) explain(err error) error {
	if s.daemon != nil && s.daemon.errors.String() != "" {
		return fmt.Errorf("%w\nThe daemon says:\n%s", err, s.daemon.errors)
	}
	return err
}

// findProcesses finds out whose processor time counts, now that all children that the
// daemon starts for its sandbox are there.
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
	s.pids = descendants(pid)
	if _, err := treeCPU(s.pids); err != nil {
		return fmt.Errorf("%w (is it in another PID namespace? name it with --pid)", err)
	}
	return nil
}

// findFiles looks up what prepare has made; that the names are there shows that the
// back-end shares the right directory.
func (s *session) findFiles(f *files) error {
	s.files = f
	e, err := s.client.Lookup(rootID, s.files.name)
	if err != nil {
		return fmt.Errorf("look up %s: %w (does the back-end share %s?)", s.files.name, err, s.opts.Dir)
	}
	s.nodes[""] = e.NodeID
	for _, name := range []string{"small", "list", "many", "tmp", "big", "cold"} {
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

// close ends the session and a daemon that was started for it.
func (s *session) close() error {
	if s.client != nil {
		s.client.Frontend.Close()
	}
	if s.daemon != nil {
		s.daemon.stop()
	}
	if s.scratch != "" {
		return os.RemoveAll(s.scratch)
	}
	return nil
}

// Flags of OPEN as they travel.
const readOnly, readWrite uint32 = unix.O_RDONLY, unix.O_RDWR
