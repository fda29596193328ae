package events_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/wire"
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// guest calls the methods as a server does, for a client that the test plays.
type guest struct {
	t      testing.TB
	dir    string
	fs     *events.FS
	thread server.Thread
	fh     uint64
	acked  uint64
}

const helperPID = 77

func newGuest(t testing.TB) *guest { return newGuestWith(t, events.Options{}) }

func newGuestWith(t testing.TB, o events.Options) *guest {
	t.Helper()
	runtime.LockOSThread()
	g := &guest{t: t, dir: t.TempDir()}
	root, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc, Cache: passthrough.CacheAlways})
	if err != nil {
		t.Fatal(err)
	}
	if g.fs, err = events.New(inner, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.fs.Close)
	if errno := g.fs.Init(&server.InitParams{}); errno != 0 {
		t.Fatal(errno)
	}
	if err := g.fs.StartThread(&g.thread); err != nil {
		t.Skip(err)
	}
	return g
}

func (g *guest) request(pid uint32, node uint64) *server.Request {
	return &server.Request{Header: fp.InHeader{NodeID: node, PID: pid}, Thread: &g.thread, MayWait: true}
}

func nul(s string) fp.Name { return append([]byte(s), 0) }

func (g *guest) lookup(pid uint32, parent uint64, name string) (fp.EntryOut, unix.Errno) {
	var out fp.EntryOut
	errno := g.fs.Lookup(g.request(pid, parent), nul(name), &out)
	return out, errno
}

// open opens the control file.
func (g *guest) open() {
	g.t.Helper()
	dir, _ := g.lookup(1, fp.RootID, wire.Dir)
	file, errno := g.lookup(1, dir.NodeID, wire.File)
	if errno != 0 || file.Attr.Mode != unix.S_IFREG|0o600 || dir.Attr.Mode != unix.S_IFDIR|0o700 || file.Attr.UID != 0 {
		g.t.Fatalf("the control file: %+v, %v", file, errno)
	}
	var out fp.OpenOut
	if errno := g.fs.Open(g.request(helperPID, file.NodeID), &fp.OpenIn{}, &out); errno != 0 {
		g.t.Fatal(errno)
	}
	g.fh = out.Fh
}

// read reads records from the control file, and waits for them for a while.
func (g *guest) read() (list []wire.Record) {
	g.t.Helper()
	return g.readAs(true)
}

// readNow does not wait.
func (g *guest) readNow() []wire.Record {
	g.t.Helper()
	return g.readAs(false)
}

func (g *guest) readAs(wait bool) (list []wire.Record) {
	g.t.Helper()
	dir, _ := g.lookup(1, fp.RootID, wire.Dir)
	file, _ := g.lookup(1, dir.NodeID, wire.File)
	b := make([]byte, 64<<10)
	r := g.request(helperPID, file.NodeID)
	r.MayWait = wait
	n, errno := g.fs.Read(r, &fp.ReadIn{Fh: g.fh, Offset: g.acked}, fuse.Over(b))
	if errno == server.WouldBlockInGo {
		return nil
	}
	if errno != 0 {
		g.t.Fatal(errno)
	}
	for b = b[:n]; len(b) > 0; {
		r, rest, err := wire.Parse(b)
		if err != nil {
			g.t.Fatal(err)
		}
		list, b = append(list, r), rest
	}
	return list
}

// help introduces the helper.
func (g *guest) help() {
	g.t.Helper()
	g.open()
	g.introduce()
}

// release is a RELEASE of the control file, as when the helper is gone.
func (g *guest) release(file uint64) {
	g.t.Helper()
	if errno := g.fs.Release(g.request(1, file), &fp.ReleaseIn{Fh: g.fh}); errno != 0 {
		g.t.Fatal(errno)
	}
	g.acked = 0
}

// introduce does what the first record says.
func (g *guest) introduce() {
	g.t.Helper()
	g.sayHello()
	g.until(wire.Found)
}

func (g *guest) sayHello() {
	g.t.Helper()
	hello := g.read()
	if len(hello) != 1 || hello[0].Op != wire.Hello {
		g.t.Fatalf("%+v", hello)
	}
	dir, _ := g.lookup(1, fp.RootID, wire.Dir)
	if _, errno := g.lookup(helperPID, dir.NodeID, "guess"); errno != unix.ENOENT {
		g.t.Fatal(errno)
	}
	if _, errno := g.lookup(helperPID, dir.NodeID, hello[0].Path); errno != unix.ENOENT {
		g.t.Fatal(errno)
	}
}

// until reads until there is a record of the kind, and reports those before as performed.
func (g *guest) until(op wire.Op) wire.Record {
	g.t.Helper()
	for range 20 {
		for _, r := range g.read() {
			if r.Op == op {
				g.acked = r.Seq - 1
				if op == wire.Found {
					g.acked = r.Seq
				}
				return r
			}
			g.acked = r.Seq
		}
	}
	g.t.Fatalf("no record %d", op)
	return wire.Record{}
}

func (g *guest) host(script string) {
	g.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = g.dir
	if b, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%v\n%s", err, b)
	}
}

func (g *guest) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(g.dir, name))
	return err == nil
}

// TestPhantomOnce: an announced unlink does nothing on the host, the same once more is a real one, and
// so is one of another thread, and one of another name.
func TestPhantomOnce(t *testing.T) {
	g := newGuest(t)
	g.host("echo x >gone; echo y >kept; echo z >other")
	g.help()
	for _, name := range []string{"gone", "kept", "other"} {
		if _, errno := g.lookup(1, fp.RootID, name); errno != 0 {
			t.Fatal(errno)
		}
	}
	g.host("rm gone")
	if r := g.until(wire.Remove); r.Path != "gone" {
		t.Fatalf("%+v", r)
	}
	g.host("echo again >gone")
	if e, errno := g.lookup(helperPID, fp.RootID, "gone"); errno != 0 || e.NodeID == 0 {
		t.Errorf("for the helper the name is not there any more: %v", errno)
	}
	unlink := func(pid uint32, name string) unix.Errno { return g.fs.Unlink(g.request(pid, fp.RootID), nul(name)) }
	if errno := unlink(helperPID, "gone"); errno != 0 || !g.exists("gone") {
		t.Errorf("the phantom: %v, the file exists: %v", errno, g.exists("gone"))
	}
	if errno := unlink(helperPID, "kept"); errno != 0 || g.exists("kept") {
		t.Errorf("not announced: %v, the file exists: %v", errno, g.exists("kept"))
	}
	if errno := unlink(helperPID, "gone"); errno != 0 || g.exists("gone") {
		t.Errorf("once more: %v, the file exists: %v", errno, g.exists("gone"))
	}
	g.acked++
	g.host("rm other; echo other >other")
	g.until(wire.Remove)
	if errno := unlink(helperPID+1, "other"); errno != 0 || g.exists("other") {
		t.Errorf("another thread: %v, the file exists: %v", errno, g.exists("other"))
	}
}

// TestPhantomTimes: a SETATTR is a phantom by its announced time only, and changes nothing on the host.
func TestPhantomTimes(t *testing.T) {
	g := newGuest(t)
	g.host("echo x >file; touch -d @1000000000 file")
	e, _ := g.lookup(1, fp.RootID, "file")
	g.help()
	g.host("echo more >>file; touch -d @1000000000 file")
	r := g.until(wire.Modify)
	set := func(mtime uint64) fp.AttrOut {
		var out fp.AttrOut
		if errno := g.fs.Setattr(g.request(helperPID, e.NodeID), &fp.SetattrIn{Valid: fp.FattrMtime, Mtime: mtime}, &out); errno != 0 {
			t.Error(errno)
		}
		return out
	}
	mtime := func() int64 {
		st, err := os.Stat(filepath.Join(g.dir, "file"))
		if err != nil {
			t.Fatal(err)
		}
		return st.ModTime().Unix()
	}
	if out := set(r.Nonce); mtime() != 1_000_000_000 || out.Attr.Mtime != 1_000_000_000 || out.Attr.Size != 7 {
		t.Errorf("the phantom: %+v, on the host %d", out.Attr, mtime())
	}
	if set(r.Nonce); uint64(mtime()) != r.Nonce {
		t.Errorf("once more: %d on the host", mtime())
	}
}

// TestSuccessor: what did not announce a phantom does not do it either.
func TestSuccessor(t *testing.T) {
	g := newGuest(t)
	g.help()
	var state bytes.Buffer
	w := record.NewWriter(&state)
	if err := g.fs.SaveState(&g.thread, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	next := newGuest(t)
	if _, err := next.fs.LoadState(&next.thread, &state); err != nil {
		t.Fatal(err)
	}
	next.host("echo x >file; mkdir dir")
	r := func() *server.Request { return next.request(helperPID, fp.RootID) }
	var entry fp.EntryOut
	var attr fp.AttrOut
	for what, errno := range map[string]unix.Errno{
		"UNLINK":  next.fs.Unlink(r(), nul("file")),
		"RMDIR":   next.fs.Rmdir(r(), nul("dir")),
		"MKDIR":   next.fs.Mkdir(r(), &fp.MkdirIn{Mode: 0o700}, nul("new"), &entry),
		"MKNOD":   next.fs.Mknod(r(), &fp.MknodIn{Mode: unix.S_IFREG}, nul("new"), &entry),
		"SYMLINK": next.fs.Symlink(r(), nul("new"), nul("x"), &entry),
		"RENAME":  next.fs.Rename(r(), &fp.Rename2In{NewDir: fp.RootID}, nul("file"), nul("new")),
		"SETATTR": next.fs.Setattr(r(), &fp.SetattrIn{Valid: fp.FattrMtime}, &attr),
	} {
		if errno == 0 {
			t.Errorf("%s of a helper that is not known was done", what)
		}
	}
	if !next.exists("file") || !next.exists("dir") || next.exists("new") {
		t.Error("the share was changed")
	}
	next.help()
	if errno := next.fs.Unlink(r(), nul("file")); errno != 0 || next.exists("file") {
		t.Errorf("after it has introduced itself: %v", errno)
	}
}

// FuzzGuest: whatever a guest does with the channel and the nodes of this package, as the helper or not, nothing
// of the host is changed by a request that says it is about them, and nothing panics.
func FuzzGuest(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	f.Add([]byte{0, 1, 0x10, 0x2f, 7, 9, 0, 0, 3})
	f.Fuzz(func(t *testing.T, program []byte) {
		g := newGuest(t)
		g.host("echo x >file")
		g.help()
		const own = uint64(0xffffffff) << 32
		for len(program) >= 3 && len(program) < 300 {
			node, pid, arg := own|uint64(program[1]), uint32(helperPID)+uint32(program[2]&1), uint64(program[2])
			r := g.request(pid, node)
			r.MayWait = false
			var entry fp.EntryOut
			var attr fp.AttrOut
			var open fp.OpenOut
			switch program[0] % 13 {
			case 0:
				_ = g.fs.Lookup(r, nul("file"), &entry)
			case 1:
				g.fs.Forget(nil, node, arg)
			case 2:
				_ = g.fs.Getattr(r, &fp.GetattrIn{}, &attr)
			case 3:
				_ = g.fs.Setattr(r, &fp.SetattrIn{Valid: fp.FattrMtime, Mtime: arg}, &attr)
			case 4:
				_ = g.fs.Open(r, &fp.OpenIn{Flags: uint32(arg)}, &open)
			case 5:
				_, _ = g.fs.Read(r, &fp.ReadIn{Fh: own | arg, Offset: binary.LittleEndian.Uint64(append(program[:3:3], make([]byte, 5)...))}, fuse.Over(make([]byte, 16*int(arg))))
			case 6:
				_ = g.fs.Release(r, &fp.ReleaseIn{Fh: own | arg})
			case 7:
				_ = g.fs.Unlink(r, nul("file"))
			case 8:
				_ = g.fs.Rename(r, &fp.Rename2In{NewDir: own | arg}, nul("file"), nul("new"))
			case 9:
				_ = g.fs.Mkdir(r, &fp.MkdirIn{}, nul("dir"), &entry)
			case 10:
				_ = g.fs.Flush(r, &fp.FlushIn{Fh: own | arg})
			case 11:
				_, _ = g.fs.Read(r, &fp.ReadIn{Fh: g.fh, Offset: arg}, fuse.Over(make([]byte, 64<<10)))
			case 12:
				_ = g.fs.Opendir(r, &fp.OpenIn{}, &open)
			}
			program = program[3:]
		}
		if list, _ := os.ReadDir(g.dir); len(list) != 1 || !g.exists("file") {
			t.Errorf("the share has %v", list)
		}
	})
}

// TestPhantomClose: an announced open for writing opens nothing, and has the guest drop the data; another
// one opens the file.
func TestPhantomClose(t *testing.T) {
	g := newGuest(t)
	g.host("echo x >file")
	e, _ := g.lookup(1, fp.RootID, "file")
	g.help()
	g.host("echo y >file")
	g.until(wire.Close)
	for i, want := range []bool{true, false} {
		var out fp.OpenOut
		if errno := g.fs.Open(g.request(helperPID, e.NodeID), &fp.OpenIn{Flags: unix.O_WRONLY}, &out); errno != 0 {
			t.Fatal(errno)
		}
		if got := out.Fh>>32 == 0xffffffff; got != want || want && out.OpenFlags != 0 {
			t.Errorf("open %d: %+v", i, out)
		}
	}
}
