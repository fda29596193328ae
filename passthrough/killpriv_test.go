package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestAtomicTruncate: a guest that names no user and does not say who may keep set-ID bits
// truncates with a request that does.
func TestAtomicTruncate(t *testing.T) {
	with := func(idmap, killpriv bool) bool {
		g := newShare(t, func(c *Config) { c.AllowIdmap, c.KillprivV2 = idmap, killpriv }, 0)
		p := &server.InitParams{Offered: ^fp.InitFlags(0), Flags: fp.InitAtomicOTrunc} // the server's wish
		wantErrno(t, "init", g.fs.Init(p), 0)
		return p.Flags&fp.InitAtomicOTrunc != 0
	}
	for _, c := range []struct{ idmap, killpriv, want bool }{{false, false, true}, {false, true, true}, {true, true, true}, {true, false, false}} {
		if got := with(c.idmap, c.killpriv); got != c.want {
			t.Errorf("ALLOW_IDMAP %v, HANDLE_KILLPRIV_V2 %v: ATOMIC_O_TRUNC %v", c.idmap, c.killpriv, got)
		}
	}
	// A guest that moves here has what it has.
	g := newShare(t, func(c *Config) { c.AllowIdmap, c.KillprivV2 = true, false }, 0)
	p := &server.InitParams{Offered: fp.InitAtomicOTrunc | fp.InitAllowIdmap, Flags: fp.InitAtomicOTrunc, Resumed: true}
	wantErrno(t, "init", g.fs.Init(p), 0)
	if p.Flags&fp.InitAtomicOTrunc == 0 {
		t.Error("a guest that moves here would be refused")
	}
}

// TestKillSetID makes the requests of Linux with HANDLE_KILLPRIV_V2, and with and without
// ALLOW_IDMAP, by root and others.
func TestKillSetID(t *testing.T) {
	needRoot(t)
	const nobody = fp.InvalidUIDGID
	g := newShare(t, nil, fp.InitHandleKillprivV2).guest()
	node, fh := g.openName("f", "0123456789", unix.O_RDWR)
	_, from := g.openName("from", "copied", unix.O_RDONLY)
	source := g.lookup(fp.RootID, "from")
	var attr fp.AttrOut
	open := func(flags uint32) func(uint32) unix.Errno {
		return func(uid uint32) unix.Errno {
			var out fp.OpenOut
			errno := g.fs.Open(g.as(node, uid, uid), &fp.OpenIn{Flags: unix.O_WRONLY | unix.O_TRUNC, OpenFlags: flags}, &out)
			if errno == 0 {
				errno = g.release(node, out.Fh)
			}
			return errno
		}
	}
	set := func(in fp.SetattrIn) func(uint32) unix.Errno {
		return func(uid uint32) unix.Errno { return g.fs.Setattr(g.as(node, uid, uid), &in, &attr) }
	}
	write := func(flags uint32) func(uint32) unix.Errno {
		return func(uint32) unix.Errno {
			_, errno := g.writeAt(node, fp.WriteIn{Fh: fh, WriteFlags: flags}, "x")
			return errno
		}
	}
	fallocate := func(uid uint32) unix.Errno {
		return g.fs.Fallocate(g.as(node, uid, uid), &fp.FallocateIn{Fh: fh, Length: 100})
	}
	copyRange := func(uid uint32) unix.Errno {
		_, errno := g.fs.CopyFileRange(g.as(source, uid, uid), &fp.CopyFileRangeIn{FhIn: from, NodeIDOut: node, FhOut: fh, Len: 4})
		return errno
	}
	modes := [][2]uint32{{0o4755, 0o755}, {0o2755, 0o755}, {0o6777, 0o777}, {0o2744, 0o2744}, {0o6744, 0o2744}, {0o755, 0o755}}
	for _, c := range []struct {
		what string
		uid  uint32
		keep bool
		do   func(uid uint32) unix.Errno
	}{
		{"open by who may", 0, true, open(0)},
		{"open by who may", nobody, true, open(0)},
		{"open by who may not", 1000, false, open(fp.OpenKillSuidgid)},
		{"open by who may not", nobody, false, open(fp.OpenKillSuidgid)},
		{"truncate by who may", nobody, true, set(fp.SetattrIn{Valid: fp.FattrSize, Size: 5})},
		{"truncate by who may not", nobody, false, set(fp.SetattrIn{Valid: fp.FattrSize | fp.FattrKillSuidgid, Size: 5})},
		{"ftruncate by who may not", nobody, false, set(fp.SetattrIn{Valid: fp.FattrSize | fp.FattrFh | fp.FattrKillSuidgid, Size: 5, Fh: fh})},
		{"write by who may", nobody, true, write(0)},
		{"write by who may not", nobody, false, write(fp.WriteKillSuidgid)},
		{"fallocate by root", 0, true, fallocate},
		{"fallocate by root", nobody, true, fallocate},
		{"fallocate by a user", 1000, false, fallocate},
		{"copy by root", 0, true, copyRange},
		{"copy by root", nobody, true, copyRange},
		{"copy by a user", 1000, false, copyRange},
		{"before a fallocate", nobody, false, set(fp.SetattrIn{})},
		{"chown by root", 0, false, set(fp.SetattrIn{Valid: fp.FattrUID | fp.FattrKillSuidgid})},
		{"chown of nothing by root", 0, false, set(fp.SetattrIn{})},
	} {
		for _, mode := range modes {
			if err := unix.Chmod(g.path("f"), mode[0]); err != nil {
				t.Fatal(err)
			}
			wantErrno(t, c.what, c.do(c.uid), 0)
			want := mode[1]
			if c.keep {
				want = mode[0]
			}
			var st unix.Stat_t
			if err := unix.Stat(g.path("f"), &st); err != nil || st.Mode&permBits != want {
				// What an open file remembers of its mode is of no use when it changes on
				// the host: a bit that means nothing then goes as well.
				if st.Mode&permBits == want&^unix.S_ISGID && want&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID && !c.keep {
					continue
				}
				t.Errorf("%s as %d: %#o became %#o, want %#o (%v)", c.what, int32(c.uid), mode[0], st.Mode&permBits, want, err)
			}
		}
	}
	// With the guest's own chmod nothing is remembered.
	wantErrno(t, "write", write(fp.WriteKillSuidgid)(0), 0)
	wantErrno(t, "chmod", set(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o6744})(0), 0)
	wantErrno(t, "write", write(fp.WriteKillSuidgid)(0), 0)
	var st unix.Stat_t
	if err := unix.Stat(g.path("f"), &st); err != nil || st.Mode&permBits != 0o2744 {
		t.Errorf("after a chmod: %#o, %v", st.Mode&permBits, err)
	}
}

// TestKillSetIDOfOthers: chown(-1, -1), which the guest's kernel lets everybody make of every
// file, takes nothing off the files of others.
func TestKillSetIDOfOthers(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, fp.InitHandleKillprivV2).guest()
	g.write("f", "x")
	if err := os.Chown(g.path("f"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(fp.RootID, "f")
	var attr fp.AttrOut
	for uid, want := range map[uint32]uint32{fp.InvalidUIDGID: 0o4755, 1001: 0o4755, 1000: 0o755, 0: 0o755} {
		if err := unix.Chmod(g.path("f"), 0o4755); err != nil {
			t.Fatal(err)
		}
		wantErrno(t, "setattr", g.fs.Setattr(g.as(node, uid, uid), &fp.SetattrIn{}, &attr), 0)
		if attr.Attr.Mode&permBits != want {
			t.Errorf("by %d: mode %#o, want %#o", int32(uid), attr.Attr.Mode&permBits, want)
		}
	}
	wantErrno(t, "chmod", g.fs.Setattr(g.on(fp.RootID), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o2755}, &attr), 0)
	wantErrno(t, "setattr", g.fs.Setattr(g.as(fp.RootID, 0, 0), &fp.SetattrIn{}, &attr), 0)
	if attr.Attr.Mode&permBits != 0o2755 {
		t.Errorf("a directory's mode is %#o", attr.Attr.Mode&permBits)
	}
}

// TestKillSetIDRemote: a file server does not look at the capabilities of our threads.
func TestKillSetIDRemote(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, fp.InitHandleKillprivV2).guest()
	node, fh := g.openName("f", "x", unix.O_RDWR)
	g.fs.mounts.of(g.fs.nodes.Get(node).Key(), -1).local = false
	if err := unix.Chmod(g.path("f"), 0o6755); err != nil {
		t.Fatal(err)
	}
	kill := fp.WriteIn{Fh: fh, WriteFlags: fp.WriteKillSuidgid}
	wantCalls(t, "WRITE", 3, func() { g.writeAt(node, kill, "x") }) // statx, chmod
	g.fs.mounts.of(g.fs.nodes.Get(node).Key(), -1).local = true
	var st unix.Stat_t
	if err := unix.Stat(g.path("f"), &st); err != nil || st.Mode&permBits != 0o755 {
		t.Errorf("mode %#o, %v", st.Mode&permBits, err)
	}
}

// TestKillSetIDCalls: writes of users without privilege cost one call more an open file, not
// one more each.
func TestKillSetIDCalls(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, fp.InitHandleKillprivV2).guest()
	node, fh := g.openName("f", "x", unix.O_RDWR)
	kill := fp.WriteIn{Fh: fh, WriteFlags: fp.WriteKillSuidgid}
	wantCalls(t, "the first WRITE", 3, func() { g.writeAt(node, kill, "x") }) // statx, capset
	wantCalls(t, "WRITE", 1, func() { g.writeAt(node, kill, "x") })
}
