package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/doctor"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/server"
)

// Requests that hang on a file system of the host which is mounted in the share: a disk that is
// frozen, and a FUSE server that does not answer.

const (
	fiFreeze = 0xc0045877 // FIFREEZE
	fiThaw   = 0xc0045878 // FITHAW
)

// disk is an ext4 file system, mounted in the share, that can be frozen.
type disk struct {
	t    *testing.T
	root *os.File
}

func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	guest.NeedRoot(t)
	image := filepath.Join(tempDir(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			guest.Missing(t, fmt.Sprintf("%s: %v: %s", args[0], err, out))
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t, root}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(root.Fd()), fiThaw, 0)
		root.Close()
		for range 200 { // the daemon lets go of it
			if unix.Unmount(dir, 0) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	return d
}

func (d *disk) set(what string, request uint) {
	d.t.Helper()
	if err := unix.IoctlSetInt(int(d.root.Fd()), request, 0); err != nil {
		d.t.Fatal(what, err)
	}
}

func (d *disk) freeze() { d.t.Helper(); d.set("freeze", fiFreeze) }
func (d *disk) thaw()   { d.t.Helper(); d.set("thaw", fiThaw) }

// fuseServer is a FUSE file system, mounted in the share, whose server may stop answering.
type fuseServer struct {
	server.NotImplemented
	mu     sync.Mutex
	alive  chan struct{} // closed while it answers
	broken atomic.Bool   // answers EIO
}

func newFUSE(t *testing.T, dir string) *fuseServer {
	t.Helper()
	guest.NeedFUSE(t)
	m, err := fusedev.New(dir, fusedev.Options{AllowOther: true})
	if err != nil {
		t.Fatal(err)
	}
	f := &fuseServer{alive: make(chan struct{})}
	close(f.alive)
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(server.New(f, server.Options{}), 2) }()
	t.Cleanup(func() {
		f.thaw()
		_ = m.Detach()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = m.Close()
	})
	return f
}

func (f *fuseServer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alive = make(chan struct{})
}

func (f *fuseServer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.alive:
	default:
		close(f.alive)
	}
}

// answer waits until the server answers.
func (f *fuseServer) answer(r *server.Request) unix.Errno {
	if f.broken.Load() {
		return unix.EIO
	}
	f.mu.Lock()
	alive := f.alive
	f.mu.Unlock()
	select {
	case <-alive:
		return 0
	default:
	}
	if !r.MayWait {
		return server.WouldBlockInGo
	}
	<-alive
	return 0
}

func (f *fuseServer) attr(node uint64, out *fp.Attr) {
	*out = fp.Attr{Ino: node, Mode: unix.S_IFREG | 0o644, Nlink: 1}
	if node == fp.RootID {
		out.Mode, out.Nlink = unix.S_IFDIR|0o755, 2
	}
}

func (f *fuseServer) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	f.attr(r.Header.NodeID, &out.Attr)
	return f.answer(r)
}

// Lookup finds the files f0 to f999.
func (f *fuseServer) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	var i uint64
	if _, err := fmt.Sscanf(name.String(), "f%d", &i); err != nil {
		return unix.ENOENT
	}
	out.NodeID = 100 + i
	f.attr(out.NodeID, &out.Attr)
	return f.answer(r)
}

// shared is a share with a file system in the directory "host", its daemon, and a guest.
type shared struct {
	t      *testing.T
	dir    string
	socket string
	daemon *daemon
	*frontend.Client
}

// startShared starts a daemon for the share in dir.
func startShared(t *testing.T, dir, box string, queues int, args ...string) *shared {
	t.Helper()
	socket := filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, append([]string{"--socket-path", socket, "--shared-dir", dir, "--sandbox=" + box,
		"--log-level=info", fmt.Sprintf("--num-request-queues=%d", queues)}, args...)...)
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: queues, QueueSize: 1024, Slots: 256, Data: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return &shared{t, dir, socket, d, handshake(t, f)}
}

// rest uses the rest of the share: nothing of it may wait for the file system that does not answer.
func (s *shared) rest(round string) {
	s.t.Helper()
	began := time.Now()
	for i := range 20 {
		name := fmt.Sprintf("%s%d", round, i)
		f, err := s.Create(fp.RootID, name, unix.O_RDWR, 0o644)
		if err != nil {
			s.t.Fatal(err)
		}
		node, fh := f.Entry.NodeID, f.Open.Fh
		_, err1 := s.Write(node, fh, 0, []byte("text"))
		data, err2 := s.Read(node, fh, 0, 4)
		err3 := s.Fsync(node, fh)
		_, err4 := s.Getattr(node)
		err5 := s.Release(node, fh)
		_, err6 := s.Mkdir(fp.RootID, name+"d", 0o755)
		err7 := s.Rmdir(fp.RootID, name+"d")
		err8 := s.Unlink(fp.RootID, name)
		for _, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if err != nil {
				s.t.Error(err)
			}
		}
		if string(data) != "text" {
			s.t.Errorf("read %q", data)
		}
	}
	s.t.Logf("20 rounds of 9 requests took %v", time.Since(began))
}

// hung are requests that were sent and hang.
type hung struct {
	t    *testing.T
	left chan error
	n    int
}

// hang sends n requests, each from a goroutine.
func (s *shared) hang(n int, send func(i int) error) *hung {
	h := &hung{s.t, make(chan error, n), n}
	for i := range n {
		go func() { h.left <- send(i) }()
	}
	return h
}

// wait waits for all replies. The client knows each by its slot, and takes none twice.
func (h *hung) wait() {
	h.t.Helper()
	for range h.n {
		if err := <-h.left; err != nil {
			h.t.Error(err)
		}
	}
}

// still checks that all hang.
func (h *hung) still() {
	h.t.Helper()
	if n := len(h.left); n > 0 {
		h.t.Errorf("%d requests have been answered: %v", n, <-h.left)
	}
}

// TestIntegrationFrozenDisk: requests that change a frozen file system wait, however many they are,
// and nothing else does. After the thaw each was done once.
func TestIntegrationFrozenDisk(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, dir+"/host")
	for _, box := range sandboxes() {
		for _, queues := range []int{1, 4} {
			for _, n := range []int{4, 32, 200} {
				t.Run(fmt.Sprintf("%s/%d queues/%d requests", box, queues, n), func(t *testing.T) {
					d.t = t
					frozenDisk(t, startShared(t, dir, box, queues), d, n)
				})
			}
		}
	}
}

func frozenDisk(t *testing.T, s *shared, d *disk, n int) {
	host, err := s.Lookup(fp.RootID, "host")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := os.WriteFile(fmt.Sprintf("%s/host/u%d", s.dir, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.Create(host.NodeID, "file", unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	d.freeze()
	defer func() {
		if t.Failed() { // the frozen disk would hold up everybody else
			_ = unix.IoctlSetInt(int(d.root.Fd()), fiThaw, 0)
		}
	}()
	h := s.hang(n, func(i int) error {
		switch i % 3 {
		case 0:
			_, err := s.Mkdir(host.NodeID, fmt.Sprintf("d%d", i), 0o755)
			return err
		case 1:
			_, err := s.Write(f.Entry.NodeID, f.Open.Fh, uint64(i), []byte("x"))
			return err
		}
		return s.Unlink(host.NodeID, fmt.Sprintf("u%d", i))
	})
	s.rest("a")
	s.rest("b")
	h.still()
	d.thaw()
	h.wait()
	s.rest("c")
	for i := range n {
		_, err1 := os.Stat(fmt.Sprintf("%s/host/d%d", s.dir, i))
		_, err2 := os.Stat(fmt.Sprintf("%s/host/u%d", s.dir, i))
		if made := err1 == nil; made != (i%3 == 0) {
			t.Errorf("d%d: %v", i, err1)
		}
		if left := err2 == nil; left != (i%3 != 2) {
			t.Errorf("u%d: %v", i, err2)
		}
	}
	s.Close()
	s.daemon.wantStatus(exitOK)
	names, _ := filepath.Glob(s.dir + "/host/[du]*")
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// TestIntegrationDeadFUSE: the same for a FUSE server that stops answering, where nothing goes on at
// all.
func TestIntegrationDeadFUSE(t *testing.T) {
	guest.NeedFUSE(t)
	for _, box := range sandboxes() {
		for _, queues := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s/%d queues", box, queues), func(t *testing.T) {
				s, dead, ask := startBesideFUSE(t, box, queues)
				dead.freeze()
				h := s.hang(200, ask)
				s.rest("a")
				s.rest("b")
				h.still()
				dead.thaw()
				h.wait()
				s.rest("c")
				s.Close()
				s.daemon.wantStatus(exitOK)
			})
		}
	}
}

// startBesideFUSE is a share with a FUSE server in "host". ask has requests touch that, those of even numbers by a node.
func startBesideFUSE(t *testing.T, box string, queues int) (s *shared, dead *fuseServer, ask func(i int) error) {
	t.Helper()
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	dead = newFUSE(t, dir+"/host")
	s = startShared(t, dir, box, queues)
	host, err := s.Lookup(fp.RootID, "host")
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Lookup(host.NodeID, "f0")
	if err != nil {
		t.Fatal(err)
	}
	return s, dead, func(i int) error {
		if i%2 == 0 {
			_, err := s.Getattr(f.NodeID)
			return err
		}
		_, err := s.Lookup(host.NodeID, fmt.Sprintf("f%d", i))
		return err
	}
}

// TestIntegrationDeadFromStart: a file system that is dead when the daemon starts costs requests for
// its name only.
func TestIntegrationDeadFromStart(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	dead := newFUSE(t, dir+"/host")
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dead.freeze()
			s := startShared(t, dir, box, 1)
			h := s.hang(100, func(int) error { _, err := s.Lookup(fp.RootID, "host"); return err })
			s.rest("a")
			h.still()
			dead.thaw()
			h.wait()
			s.Close()
			s.daemon.wantStatus(exitOK)
		})
	}
}

// TestIntegrationHangTold: the log says what hangs, and where its thread is, also in the sandbox;
// SIGUSR1 has all requests logged, and SIGTERM ends the daemon as soon as the kernel lets it.
func TestIntegrationHangTold(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, dir+"/host")
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			d.t = t
			s := startShared(t, dir, box, 1)
			host, err := s.Lookup(fp.RootID, "host")
			if err != nil {
				t.Fatal(err)
			}
			d.freeze()
			h := s.hang(1, func(int) error { _, err := s.Mkdir(host.NodeID, box, 0o755); return err })
			s.daemon.waitLine(`A request hangs: MKDIR of "host/` + box + `", under way for 5s, thread `)
			line := s.daemon.said[len(s.daemon.said)-1]
			if !strings.Contains(line, "is in mkdirat, in state D, at ") {
				t.Error(line)
			}
			_ = s.daemon.cmd.Process.Signal(unix.SIGUSR1)
			s.daemon.waitLine("1 requests are under way")
			s.daemon.waitLine(`Under way: MKDIR of "host/` + box)
			plan := share.Config{}
			plan.SocketPath = s.socket
			found := doctor.Examine(&plan, doctor.Gather(&plan, nil)).Checks
			if !slices.ContainsFunc(found, func(f doctor.Finding) bool {
				return f.Check == "requests" && f.Status == doctor.Warn && strings.HasPrefix(f.Text, `MKDIR at "/host" has been under way for `)
			}) {
				t.Errorf("the doctor says %+v", found)
			}
			d.thaw()
			h.wait()
			s.daemon.waitLine("A request that hung has ended after")

			d.freeze()
			h = s.hang(1, func(int) error { _, err := s.Mkdir(host.NodeID, box+"2", 0o755); return err })
			s.rest("a")
			_ = s.daemon.cmd.Process.Signal(unix.SIGTERM)
			s.daemon.waitLine("a request does not end: the daemon ends without waiting for it")
			d.thaw()
			s.daemon.wantStatus(exitOK)
			<-h.left // answered or not
		})
	}
}
