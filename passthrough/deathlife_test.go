package passthrough

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// life is one client with the processes that serve it.
type life struct {
	t      *testing.T
	c      *deathCase
	dir    string
	ledger *ledger.Ledger
	board  *board
	safe   *safe
	socket [2]int
}

func newLife(t *testing.T, c *deathCase) *life {
	l := &life{t: t, c: c, dir: t.TempDir(), board: newBoard(t), safe: newSafe(t)}
	var err error
	if l.ledger, err = ledger.Create(); err != nil {
		t.Fatal(err)
	}
	if l.socket, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if c.setup != nil {
		c.setup(l.dir)
	}
	if c.hostLocks {
		t.Cleanup(lockFromHost(t, l.dir))
	}
	return l
}

// close lets go of all: there are thousands of lives, and a ledger takes much room of addresses.
func (l *life) close() {
	_ = l.ledger.Close()
	_, _ = unix.Close(l.socket[0]), unix.Close(l.socket[1])
	l.board.close()
	_ = os.RemoveAll(l.dir)
}

// run runs a process that dies at a point; 0 is none, of which it names all. It reports whether the
// process has died there.
func (l *life) run(point int, from string) (died bool, points []string) {
	l.t.Helper()
	file := func(fd int) *os.File {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			l.t.Fatal(err)
		}
		return os.NewFile(uintptr(copied), "")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeathOf$", "-test.count=1")
	cmd.ExtraFiles = []*os.File{file(l.ledger.FD()), file(l.board.fd), file(l.socket[1])}
	var keys []string
	for k, fd := range l.safe.held {
		keys = append(keys, fmt.Sprintf("%d.%d.%d", k.Kind, k.ID, k.Sub))
		cmd.ExtraFiles = append(cmd.ExtraFiles, file(fd))
	}
	cmd.Env = append(os.Environ(), deathEnv+"="+strings.Join([]string{l.c.name, strconv.Itoa(point), from, l.dir, strings.Join(keys, " ")}, "|"))
	out, err := cmd.CombinedOutput()
	for _, f := range cmd.ExtraFiles {
		_ = f.Close()
	}
	l.safe.receive(l.socket[0])
	if err == nil && bytes.Contains(out, []byte("served")) {
		lines := bufio.NewScanner(bytes.NewReader(out))
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "point "); ok {
				points = append(points, name)
			}
		}
		return false, points
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			if from == "target" {
				l.looksLocked()
			}
			return true, nil
		}
	}
	l.t.Fatalf("%s, point %d from %s: %v\n%s", l.c.name, point, from, err, out)
	return false, nil
}

// finish has a last process, which does not die, serve what is left, and says what there is then.
func (l *life) finish() []string {
	l.t.Helper()
	// A child of another life has copies of all descriptors until it is another program, locks too.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l.safe.next()
	result := make(chan []string)
	go func() { // with a thread of its own, which ends with it
		defer close(result)
		p, err := startProcess(l.c, l.ledger, l.dir, l.safe)
		if err != nil {
			l.t.Error(err)
			return
		}
		p.serve(l.c, l.board, func(int) {})
		result <- l.look(p)
		p.thread.Stop()
		p.fs.Destroy()
		_, _ = unix.Close(p.fs.cfg.RootFD), unix.Close(p.fs.cfg.ProcFD)
	}()
	list := <-result
	<-result // closed when the process has ended
	return list
}

// look is all that must be the same, whichever process dies.
func (l *life) look(p *process) (list []string) {
	for i, step := range l.c.steps() {
		list = append(list, fmt.Sprintf("reply %d: %s", i, masked(step(l.board).op, l.board.reply(i)[:*l.board.length(i)])))
	}
	path := func(n *inode) string {
		if n == p.fs.nodes.root {
			return "/"
		}
		var names []string
		for at := n; at != nil && at != p.fs.nodes.root && len(names) < 20; at = at.currentParent() {
			_, name := at.locationOf()
			names = append(names, name)
		}
		slices.Reverse(names)
		return strings.Join(names, "/")
	}
	for n := range p.fs.nodes.All {
		list = append(list, fmt.Sprintf("node %s: %d lookups", path(n), p.fs.nodes.Lookups(n)))
	}
	for f := range p.fs.openFiles.All {
		list = append(list, fmt.Sprintf("open file of %s: %#x, locks %v", path(f.node), f.flags, f.node.heldLocks()))
	}
	list = append(list, fmt.Sprintf("%d open files are counted", p.fs.fds.kept.Load()))
	for k := range l.safe.held {
		list = append(list, "kept: "+k.Kind.String())
	}
	err := filepath.Walk(l.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("file %s: %o, %d names, %d:%d, device %d", strings.TrimPrefix(path, l.dir), st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(", %q", content)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + target
		}
		names := make([]byte, 1024)
		if n, err := unix.Llistxattr(path, names); err == nil {
			for _, name := range strings.FieldsFunc(string(names[:n]), func(r rune) bool { return r == 0 }) {
				value := make([]byte, 256)
				n, _ := unix.Lgetxattr(path, name, value)
				line += fmt.Sprintf(", %s=%q", name, value[:max(n, 0)])
			}
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		l.t.Error(err)
	}
	slices.Sort(list)
	return list
}

// heldLocks are the ranges that are locked, of both kinds.
func (n *inode) heldLocks() (list []string) {
	n.Lock()
	defer n.Unlock()
	l := n.fileLocks()
	if l == nil {
		return nil
	}
	for _, t := range []*lockTable{&l.posix, &l.flock} {
		for _, o := range t.holders {
			for _, r := range o.held {
				list = append(list, fmt.Sprintf("%d to %d of %d, exclusive %v", r.start, r.end, o.number, r.exclusive))
			}
		}
	}
	slices.Sort(list)
	return list
}

// masked is a reply without what differs from one run to the next: numbers, times, inodes.
func masked(op fp.Opcode, reply []byte) string {
	if len(reply) < 16 {
		return "none"
	}
	errno := -int32(binary.NativeEndian.Uint32(reply[4:]))
	reply = reply[16:]
	if errno != 0 || len(reply) == 0 {
		return unix.ErrnoName(unix.Errno(errno))
	}
	attr := func(a *fp.Attr) string {
		return fmt.Sprintf("mode %o, %d names, %d:%d, %d bytes, device %d", a.Mode, a.Nlink, a.UID, a.GID, a.Size, a.Rdev)
	}
	aligned := alignedBytes(len(reply))
	copy(aligned, reply)
	switch op {
	case fp.OpLookup, fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpLink:
		v, _, _ := fp.View[fp.EntryOut](aligned)
		return fmt.Sprintf("a node %v, %s", v.NodeID != 0, attr(&v.Attr))
	case fp.OpCreate, fp.OpTmpfile:
		v, _, _ := fp.View[fp.CreateOut](aligned)
		return fmt.Sprintf("a node %v, open %v, %s", v.Entry.NodeID != 0, v.Open.Fh != 0, attr(&v.Entry.Attr))
	case fp.OpGetattr, fp.OpSetattr:
		v, _, _ := fp.View[fp.AttrOut](aligned)
		return attr(&v.Attr)
	case fp.OpOpen, fp.OpOpendir:
		v, _, _ := fp.View[fp.OpenOut](aligned)
		return fmt.Sprintf("open %v, %#x", v.Fh != 0, v.OpenFlags)
	case fp.OpReaddir, fp.OpReaddirplus:
		var names []string
		for _, l := range parseListing(aligned, op == fp.OpReaddirplus) {
			names = append(names, fmt.Sprintf("%s %v", l.name, l.entry.NodeID != 0))
		}
		slices.Sort(names)
		return strings.Join(names, ", ")
	case fp.OpStatfs, fp.OpStatx:
		return fmt.Sprintf("%d bytes", len(reply))
	}
	return fmt.Sprintf("%q", reply)
}

// TestDeaths kills a process at each point of each request, and in each of these cases another one
// that takes over, at a point or two of its own.
func TestDeaths(t *testing.T) {
	guestsNeedRoot(t)
	all := os.Getenv("GOVIRTIOFS_DEATHS") == "all"
	tried := map[fp.Opcode]int{}
	for i := range deathCases {
		c := &deathCases[i]
		l := newLife(t, c)
		_, points := l.run(0, "target")
		tried[c.target(l.board).op] += len(points)
		want := l.finish()
		l.close()
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(len(points)), 7))
			for point := 1; point <= len(points); point++ {
				l := newLife(t, c)
				if died, _ := l.run(point, "target"); !died {
					t.Fatalf("the process does not die at point %d, %s", point, points[point-1])
				}
				compareLife(t, fmt.Sprintf("killed at point %d, %s", point, points[point-1]), l.finish(), want)
				l.close()
				seconds := []int{1 + random.IntN(len(points)+8)}
				if all {
					seconds = nil
					for second := 1; second <= len(points)+40; second++ {
						seconds = append(seconds, second)
					}
				}
				for _, second := range seconds {
					l := newLife(t, c)
					l.run(point, "target")
					died, _ := l.run(second, "start")
					compareLife(t, fmt.Sprintf("killed at point %d, %s, and at point %d of the successor", point, points[point-1], second), l.finish(), want)
					l.close()
					if !died {
						break
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	for op := range fp.Opcode(fp.NumOpcodes) {
		if why := notKilled[op]; (tried[op] == 0) != (why != "") && op.Shape().Name != "" {
			t.Errorf("%v: killed at %d points, and said to be left out because %q", op, tried[op], why)
		}
	}
}

func compareLife(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	var b strings.Builder
	for _, s := range want {
		if !slices.Contains(got, s) {
			fmt.Fprintf(&b, "\n\twant %s", s)
		}
	}
	for _, s := range got {
		if !slices.Contains(want, s) {
			fmt.Fprintf(&b, "\n\tgot  %s", s)
		}
	}
	t.Errorf("%s:%s", what, b.String())
}

func guestsNeedRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("some requests are made as another user, which only root can")
	}
}

// alignedBytes is memory for n bytes, aligned to 8.
func alignedBytes(n int) []byte {
	words := make([]uint64, (n+7)/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n)
}
