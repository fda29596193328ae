package passthrough

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// inUserNamespace runs the test that calls it again, in a user namespace that has root
// and its group only. It reports whether this is that process.
func inUserNamespace(t *testing.T) bool {
	t.Helper()
	const env = "GOVIRTIOFS_TEST_IN_USERNS"
	if os.Getenv(env) != "" {
		return true
	}
	needRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1", "TMPDIR="+t.TempDir())
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one,
		GidMappingsEnableSetgroups: true, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := spawn.Start(cmd)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skip("no user namespaces here: ", err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	return false
}

// TestUnmappedIDs: users and groups that the daemon's user namespace does not have, which
// the kernel refuses with EINVAL.
func TestUnmappedIDs(t *testing.T) {
	if !inUserNamespace(t) {
		return
	}
	g := newShare(t, func(c *Config) { c.PosixACL = Auto }, fp.InitPosixACL|fp.InitDontMask|fp.InitSetxattrExt).guest()
	g.write("f", "x")
	node := g.lookup(fp.RootID, "f")
	var entry fp.EntryOut
	var created fp.CreateOut
	const unknown = 5000
	for what, ids := range map[string][3]uint32{
		"user": {unknown, 0, 0}, "group": {0, unknown, 0}, "both": {unknown, unknown, 0}, "other group": {0, 0, unknown},
	} {
		r := g.as(fp.RootID, ids[0], ids[1])
		if r.Groups = nil; ids[2] != 0 {
			r.Groups = []uint32{ids[2]}
		}
		wantErrno(t, "mkdir by "+what, g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755}, name("d"), &entry), unix.EPERM)
		wantErrno(t, "create by "+what, g.fs.Create(r, &fp.CreateIn{Mode: 0o644, Flags: unix.O_RDWR}, name("c"), &created), unix.EPERM)
		r.Groups = nil
	}
	if names, err := os.ReadDir(g.dir); err != nil || len(names) != 1 {
		t.Errorf("%v, %v: something was made", names, err)
	}
	// The thread is the daemon again.
	wantErrno(t, "mkdir", g.fs.Mkdir(g.as(fp.RootID, 0, 0), &fp.MkdirIn{Mode: 0o755}, name("d"), &entry), 0)
	var attr fp.AttrOut
	for what, in := range map[string]fp.SetattrIn{
		"chown": {Valid: fp.FattrUID, UID: unknown}, "chgrp": {Valid: fp.FattrGID, GID: unknown},
	} {
		wantErrno(t, what, g.fs.Setattr(g.on(node), &in, &attr), unix.EPERM)
	}
	for what, tag := range map[string]uint32{"user": aclUser, "group": aclGroup} {
		list := [][3]uint32{{0x01, 6, noID}, {0x04, 4, noID}, {0x10, 6, noID}, {0x20, 4, noID}}
		at := map[uint32]int{aclUser: 1, aclGroup: 2}[tag]
		var entries []uint32
		for _, e := range slices.Insert(list, at, [3]uint32{tag, 6, unknown}) {
			entries = append(entries, e[:]...)
		}
		wantErrno(t, "ACL for a "+what, g.setxattr(node, "system.posix_acl_access", string(acl(entries...)), 0), unix.EPERM)
	}
	value := append(binary.LittleEndian.AppendUint32(nil, capV3), make([]byte, capXattr3-4)...)
	binary.LittleEndian.PutUint32(value[capXattr2:], unknown)
	wantErrno(t, "capabilities below a user", g.setxattr(node, capName, string(value), 0), unix.EPERM)
	wantErrno(t, "malformed capabilities", g.setxattr(node, capName, "abc", 0), unix.EINVAL)
	wantErrno(t, "malformed ACL", g.setxattr(node, "system.posix_acl_access", "\x02\x00\x00\x00\x01", 0), unix.EINVAL)
}
