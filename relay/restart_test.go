package relay

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// TestChangesAreDecided: changes under way when the program ends are answered by what is there afterwards.
func TestChangesAreDecided(t *testing.T) {
	rename := func(m *model) { m.root.link("to", m.root.children["file"]); m.root.unlink("file") }
	for _, c := range []struct {
		what    string
		op      fp.Opcode
		parts   [][]byte
		room    int
		happens func(m *model) // nil: it has not happened
		want    unix.Errno
		seen    int // requests of op that the programs have got
	}{
		{"MKDIR that happened", fp.OpMkdir, [][]byte{fp.Bytes(&fp.MkdirIn{Mode: 0o755}), name("new")}, 128,
			func(m *model) { m.add(m.root, "new", unix.S_IFDIR|0o755, "") }, 0, 1},
		{"MKDIR that did not", fp.OpMkdir, [][]byte{fp.Bytes(&fp.MkdirIn{Mode: 0o755}), name("new")}, 128, nil, 0, 2},
		{"CREATE that happened", fp.OpCreate, [][]byte{fp.Bytes(&fp.CreateIn{Mode: 0o644}), name("new")}, 144,
			func(m *model) { m.add(m.root, "new", unix.S_IFREG|0o644, "") }, 0, 1},
		{"CREATE that did not", fp.OpCreate, [][]byte{fp.Bytes(&fp.CreateIn{Mode: 0o644}), name("new")}, 144, nil, 0, 2},
		{"UNLINK that happened", fp.OpUnlink, [][]byte{name("file")}, 0, func(m *model) { m.root.unlink("file") }, 0, 1},
		{"UNLINK that did not", fp.OpUnlink, [][]byte{name("file")}, 0, nil, 0, 2},
		{"RENAME that happened", fp.OpRename, [][]byte{fp.Bytes(&fp.RenameIn{NewDir: 1}), name("file"), name("to")}, 0, rename, 0, 1},
		{"RENAME that did not", fp.OpRename, [][]byte{fp.Bytes(&fp.RenameIn{NewDir: 1}), name("file"), name("to")}, 0, nil, 0, 2},
		{"MKDIR that can't be", fp.OpMkdir, [][]byte{fp.Bytes(&fp.MkdirIn{Mode: 0o755}), name("file")}, 128,
			func(m *model) {}, unix.EIO, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := newModel(t, 31)
			m.add(m.root, "file", unix.S_IFREG|0o644, "text")
			m.hook = func(p *process, h *fp.InHeader, _ []byte) bool {
				if fp.Opcode(h.Opcode) != c.op || m.count(c.op) != 1 {
					return false
				}
				m.tree.Lock()
				if c.happens != nil {
					c.happens(m)
				}
				m.tree.Unlock()
				_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
				return true
			}
			g := newGuest(t, m, Options{Restart: true})
			if _, errno := g.do(c.op, 1, c.room, c.parts...); errno != c.want {
				t.Errorf("%v, want %v", errno, c.want)
			}
			if n := m.count(c.op); n != c.seen {
				t.Errorf("the programs have got %d %s, want %d", n, c.op, c.seen)
			}
		})
	}
}

// TestRestartInReads: a program that dies again and again during reads is not noticed by the guest, except for what it
// may not have written.
func TestRestartInReads(t *testing.T) {
	m := newModel(t, 31)
	text := strings.Repeat("0123456789abcdef", 1<<16)
	m.add(m.root, "file", unix.S_IFREG|0o644, text)
	reads := 0
	m.hook = func(p *process, h *fp.InHeader, _ []byte) bool {
		if fp.Opcode(h.Opcode) != fp.OpRead {
			return false
		}
		if reads++; reads%3 != 0 {
			return false
		}
		_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
		return true
	}
	g := newGuest(t, m, Options{Restart: true})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, unix.O_RDWR)
	for off := 0; off < len(text); off += MaxData {
		if got := g.read(e.NodeID, fh, uint64(off), MaxData); string(got) != text[off:off+MaxData] {
			t.Fatalf("READ at %d is wrong", off)
		}
	}
	g.must(fp.OpWrite, e.NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: fh, Size: 2}), []byte("ab"))
	before := g.fs.link.Load()
	m.process().kill()
	// A request that is on its way to the dead program would get an EIO of its own.
	eventually(t, "the program is not started again", func() bool { return g.fs.link.Load() != before })
	for i, want := range []unix.Errno{unix.EIO, 0} {
		if _, errno := g.do(fp.OpFsync, e.NodeID, 0, fp.Bytes(&fp.FsyncIn{Fh: fh})); errno != want {
			t.Errorf("FSYNC %d after a program with unwritten data has ended: %v, want %v", i, errno, want)
		}
	}
	g.must(fp.OpSetlk, e.NodeID, 0, fp.Bytes(&fp.LkIn{Fh: fh, Lk: fp.FileLock{Type: unix.F_WRLCK, End: 10}}))
	m.process().kill()
	if _, errno := g.do(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10})); errno != unix.EIO {
		t.Errorf("READ of a file whose locks are lost: %v", errno)
	}
}

// TestNodeWithoutName: a node whose name is gone can't be found again.
func TestNodeWithoutName(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	g := newGuest(t, m, Options{Restart: true})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	g.must(fp.OpUnlink, 1, 0, name("file"))
	if got := g.read(e.NodeID, fh, 0, 10); string(got) != "text" {
		t.Errorf("READ of a removed file: %q", got)
	}
	m.process().kill()
	if _, errno := g.do(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10})); errno != unix.ESTALE {
		t.Errorf("READ of a removed file after a restart: %v", errno)
	}
}

// TestEndWithoutRestart: requests of a program that has ended get EIO, and who serves it is told.
func TestEndWithoutRestart(t *testing.T) {
	m := newModel(t, 31)
	k := &keeper{op: fp.OpStatfs}
	m.hook = k.hook
	g := newGuest(t, m, Options{})
	waiting := g.start(fp.OpStatfs, 1, 80)
	eventually(t, "no STATFS", func() bool { return k.count() == 1 })
	m.process().kill()
	if _, errno := g.wait(waiting); errno != unix.EIO {
		t.Errorf("a request under way: %v", errno)
	}
	if _, errno := g.do(fp.OpLookup, 1, 128, name("file")); errno != unix.EIO {
		t.Errorf("a later one: %v", errno)
	}
	select {
	case <-g.fs.Ended():
	case <-time.After(deadline):
		t.Error("nobody is told")
	}
}

// TestRestartSaysWhy: the log says which program has ended, and why.
func TestRestartSaysWhy(t *testing.T) {
	for want, why := range map[string]error{
		"bindfs: the program has ended with status 3; it is started again": errors.New("bindfs: the program has ended with status 3"),
		"the program has closed its connection (":                          nil,
	} {
		m := newModel(t, 31)
		m.why = why
		var log daemontest.Log
		g := newGuest(t, m, Options{Restart: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		m.process().kill()
		g.must(fp.OpStatfs, 1, 80)
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has %q, want %q", &log, want)
		}
	}
}

// TestCanNotStartAgain: while there is no program, requests fail at once.
func TestCanNotStartAgain(t *testing.T) {
	m := newModel(t, 31)
	var log daemontest.Log
	g := newGuest(t, m, Options{Restart: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	m.mu.Lock()
	m.failNext = errors.New("no such program")
	m.mu.Unlock()
	m.process().kill()
	if _, errno := g.do(fp.OpStatfs, 1, 80); errno != unix.EIO {
		t.Errorf("%v", errno)
	}
	eventually(t, "it is not tried again", func() bool { _, errno := g.do(fp.OpStatfs, 1, 80); return errno == 0 })
	if !strings.Contains(log.String(), "no such program") {
		t.Errorf("log: %s", log.String())
	}
}

// TestBadPrograms: what can't be relayed is refused with a reason.
func TestBadPrograms(t *testing.T) {
	for what, c := range map[string]struct {
		change func(m *model)
		want   string
	}{
		"too old":  {func(m *model) { m.minor = 4 }, "7.4"},
		"too new":  {func(m *model) { m.minor = 99 }, "7.99"},
		"no reply": {func(m *model) { m.hook = func(*process, *fp.InHeader, []byte) bool { return true } }, "no answer to INIT"},
		"refuses": {func(m *model) {
			m.hook = func(p *process, h *fp.InHeader, _ []byte) bool { p.reply(h.Unique, unix.EPROTO); return true }
		}, "refused INIT"},
		"ends": {func(m *model) {
			m.hook = func(p *process, _ *fp.InHeader, _ []byte) bool { _ = unix.Shutdown(p.fd, unix.SHUT_RDWR); return true }
		}, "ended before"},
		"rubbish": {func(m *model) {
			m.hook = func(p *process, _ *fp.InHeader, _ []byte) bool { p.raw([]byte("hello")); return true }
		}, "5 bytes"},
	} {
		m := newModel(t, 31)
		c.change(m)
		fs, err := New(context.Background(), m, Options{Log: quiet, StartTimeout: 200 * time.Millisecond})
		if err == nil {
			fs.Close()
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// TestReleaseWaits: the program gets RELEASE and FORGET after the last request with the open file and the node has
// ended in it, even if the guest sends them before, or has given the request up.
func TestReleaseWaits(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	k := &keeper{op: fp.OpRead}
	m.hook = k.hook
	g := newGuest(t, m, Options{Timeout: 300 * time.Millisecond})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	read := g.start(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10}))
	eventually(t, "no READ", func() bool { return k.count() == 1 })
	g.must(fp.OpRelease, e.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
	g.do(fp.OpForget, e.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
	if _, errno := g.wait(read); errno != unix.ETIMEDOUT {
		t.Errorf("READ: %v", errno)
	}
	g.must(fp.OpStatfs, 1, 80) // what was sent before has arrived
	if m.count(fp.OpRelease)+m.count(fp.OpForget) != 0 {
		t.Error("the program has closed a file that it was reading")
	}
	k.release()
	eventually(t, "no RELEASE, or no FORGET", func() bool { return m.count(fp.OpRelease) == 1 && m.count(fp.OpForget) == 1 })
}
