package passthrough

import (
	"bytes"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// FuzzLoadState loads what somebody else made up, with all options that decide on it, and
// then uses and saves what came. No descriptor leads out of the share, and none is left.
func FuzzLoadState(f *testing.F) {
	for _, edit := range []func(*Config){
		nil, func(c *Config) { c.Migration.FileHandles = true }, func(c *Config) { c.Migration.VerifyHandles = true },
	} {
		f.Add(newTraveller(f, edit).saved(), uint8(0))
	}
	f.Add(newLocker(f).saved(), uint8(0))
	base := f.TempDir()
	dir := base + "/share"
	if err := os.MkdirAll(dir+"/dir/sub", 0o755); err != nil {
		f.Fatal(err)
	}
	for _, file := range []string{"secret", "share/dir/db", "share/dir/sub/file"} {
		if err := os.WriteFile(base+"/"+file, []byte("content"), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, base, 0); err == nil && h.Size() > 0 { // these differ from run to run
		for _, mode := range []uint64{handlesFind, handlesVerify} {
			state := forge(mode)
			state.open(3, state.child(2, unix.S_IFREG, 0, "secret", handleOfPath(f, base+"/secret")), unix.O_RDWR)
			state.open(4, state.child(3, unix.S_IFDIR, 0, "dir", handleOfPath(f, dir+"/dir")), unix.O_DIRECTORY)
			state.open(5, state.child(4, unix.S_IFREG, 2, "db", handleOfPath(f, dir+"/dir/db")), unix.O_RDWR)
			state.node(5, unix.S_IFDIR, locatedNowhere, "", handleOfPath(f, base))
			state.node(6, unix.S_IFREG, locatedByPath, "dir/sub/file", handleOfPath(f, dir+"/dir/sub/file"))
			f.Add(state.end(), uint8(0xff))
		}
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, state []byte, options uint8) {
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(root) }()
		is := func(bit uint8) bool { return options&bit != 0 }
		cfg := Config{RootFD: root, ProcFD: proc, PosixLocks: !is(1), Flocks: !is(1), ReadOnly: is(2), MaxFDs: 200,
			Migration: Migration{GuestErrors: !is(4), FileHandles: is(8), VerifyHandles: is(16)}}
		if is(32) {
			cfg.FileHandles = HandlesPrefer
		}
		if is(64) {
			cfg.FileHandles = HandlesMandatory
		}
		fs, err := New(cfg)
		if err != nil {
			t.Skip(err) // no handles here
		}
		fs.limits = stateLimits{nodes: 1 << 16, openFiles: 1 << 16, locks: 1 << 10, doubles: 1 << 10}
		fs.features.flags.Store(uint64(allLocks))
		g := (&share{t: t, fs: fs, dir: dir}).guest()
		_, err = fs.LoadState(&g.thread, record.NewReader(bytes.NewReader(state), math.MaxInt64))
		_ = PrintState(io.Discard, bytes.NewReader(state))
		g.staysBelow(base + "/share")
		if err == nil {
			g.touch()
		}
		fs.Destroy()
		if fds, opens := fs.fds.used.Load(), fs.fds.kept.Load(); fds != 1 || opens != 0 {
			t.Errorf("%d descriptors are left, %d of open files and locks", fds-1, opens)
		}
	})
}

// staysBelow checks that no node and no open file is outside of the directory. Nobody moves
// anything, so the kernel's paths are right.
func (g *guest) staysBelow(dir string) {
	g.t.Helper()
	check := func(what string, id uint64, fd int) {
		if path := g.fs.find.readlink(threadOf(g.on(fp.RootID)), fd); path != dir && !strings.HasPrefix(path, dir+"/") {
			g.t.Fatalf("%s %d is %q", what, id, path)
		}
	}
	for n := range g.fs.nodes.All {
		if fd := n.fd.Load(); fd >= 0 {
			check("node", n.ID(), int(fd))
		}
	}
	for f := range g.fs.openFiles.All {
		check("open file", f.ID(), f.fd)
		if flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0); g.fs.cfg.ReadOnly && (err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY) {
			g.t.Fatalf("open file %d has flags %#x on a read-only share", f.ID(), flags)
		}
	}
}

// touch uses everything that a guest has after a move, changes nothing, and saves it.
func (g *guest) touch() {
	g.t.Helper()
	for n := range g.fs.nodes.All {
		_, _ = g.getattr(n.ID())
		var e fp.EntryOut
		if g.fs.Lookup(g.on(n.ID()), name("file"), &e) == 0 {
			g.fs.Forget(nil, e.NodeID, 1)
		}
	}
	for f := range g.fs.openFiles.All {
		if f.dir == nil {
			_, _ = g.readAt(f.node.ID(), f.ID(), 0, 10)
		}
	}
	var b bytes.Buffer
	w := record.NewWriter(&b)
	if err := g.fs.SaveState(&g.thread, w); err != nil {
		g.t.Errorf("what came can't be saved: %v", err)
	}
	if err := w.Flush(); err != nil {
		g.t.Error(err)
	}
	g.staysBelow(g.dir)
}
