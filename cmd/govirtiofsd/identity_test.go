package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// needProgram skips, or fails where everything has to run.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	guest.Missing(t, name+" is missing")
}

// mapUser is a user whom newuidmap knows: it looks users up, and what they may map.
const (
	mapUser      = "govirtiofs-test"
	mapUID       = 4719
	mapGID       = 65534
	firstSubUID  = 2_000_000
	firstSubGID  = 3_000_000
	subIDsCount  = 65536
	firstMapping = 1 // inside, of subordinate ids
)

func makeMapUser(t *testing.T) {
	t.Helper()
	guest.NeedRoot(t)
	for _, p := range []string{"newuidmap", "newgidmap", "useradd", "usermod", "userdel"} {
		needProgram(t, p)
	}
	_ = exec.Command("userdel", mapUser).Run() // of a test that was killed
	t.Cleanup(func() {
		if out, err := exec.Command("userdel", mapUser).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v: %s", err, out)
		}
	})
	for _, args := range [][]string{
		{"useradd", "-M", "-N", "-g", fmt.Sprint(mapGID), "-u", fmt.Sprint(mapUID), mapUser},
		{"usermod", "--add-subuids", fmt.Sprintf("%d-%d", firstSubUID, firstSubUID+subIDsCount-1),
			"--add-subgids", fmt.Sprintf("%d-%d", firstSubGID, firstSubGID+subIDsCount-1), mapUser},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
}

// startMapped starts a daemon of mapUser's.
func startMapped(t *testing.T, args ...string) (*daemon, string) {
	t.Helper()
	dir := tempDir(t)
	if err := errors.Join(os.Mkdir(dir+"/tree", 0o755), os.Chown(dir+"/tree", mapUID, mapGID)); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mapUID, Gid: mapGID}}
	}, append([]string{"--socket-path", dir + "/s", "--shared-dir", dir + "/tree"}, args...)...)
	return d, dir
}

func TestAboutOwners(t *testing.T) {
	for _, test := range []struct {
		uid  int
		args string
		says bool
	}{
		{0, "", false}, {1000, "", true}, {1000, "--ownership=xattr", false}, {1000, "--uid-map :0:1000:1:", false},
		{1000, "--readonly", false}, {1000, "--translate-uid squash-guest:0:1000:9", false},
	} {
		o, err := parse(slices.Concat(usual, strings.Fields(test.args)))
		if err != nil || (o.aboutOwners(test.uid) != "") != test.says {
			t.Errorf("user %d, %q: says %q, %v", test.uid, test.args, o.aboutOwners(test.uid), err)
		}
	}
}

// TestIntegrationIDMaps has a user's daemon make files of the user's subordinate ids.
func TestIntegrationIDMaps(t *testing.T) {
	makeMapUser(t)
	d, dir := startMapped(t, "--uid-map=:0:4719:1:", "--uid-map", "/1/2000000/1000/", "--uid-map", "x2000x2001000x1",
		"--gid-map", ",0,65534,1,", "--gid-map=:1:3000000:1000:")
	d.waitLine(waitingLine)
	if err := os.WriteFile(dir+"/tree/root", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := connect(t, dir+"/s")
	for _, test := range []struct{ uid, gid, hostUID, hostGID uint32 }{
		{0, 0, mapUID, mapGID}, {1, 1, firstSubUID, firstSubGID}, {5, 0, firstSubUID + 4, mapGID},
		{1000, 1000, firstSubUID + 999, firstSubGID + 999}, {2000, 6, firstSubUID + 1000, firstSubGID + 5},
	} {
		name := fmt.Sprint("f", test.uid)
		e := makeAs(t, c, name, test.uid, test.gid)
		if a := e.Entry.Attr; a.UID != test.uid || a.GID != test.gid {
			t.Errorf("%+v: shown %d:%d", test, a.UID, a.GID)
		}
		wantOwner(t, dir+"/tree/"+name, test.hostUID, test.hostGID)
		a, err := c.Setattr(e.Entry.NodeID, fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID, UID: 7, GID: 8})
		if err != nil || a.UID != 7 || a.GID != 8 {
			t.Errorf("chown: %+v, %v", a, err)
		}
		wantOwner(t, dir+"/tree/"+name, firstSubUID+6, firstSubGID+7)
	}
	// An id without a counterpart can't own anything, and leaves no trace.
	c.UID, c.GID = 5000, 0
	if _, err := c.Create(1, "unmapped", unix.O_RDWR, 0o644); err == nil {
		t.Error("a file of a user who is not mapped")
	}
	c.UID, c.GID = 0, 0
	if _, err := os.Lstat(dir + "/tree/unmapped"); err == nil {
		t.Error("the file is there")
	}
	// The host's root is nobody inside.
	if e, err := c.Lookup(1, "root"); err != nil || e.Attr.UID != 65534 {
		t.Errorf("a file of root's: %+v, %v", e.Attr, err)
	}
	c.Close()
	d.wantStatus(exitOK)
}

func makeAs(t *testing.T, c *frontend.Client, name string, uid, gid uint32) fp.CreateOut {
	t.Helper()
	c.UID, c.GID = uid, gid
	defer func() { c.UID, c.GID = 0, 0 }()
	e, err := c.Create(1, name, unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatalf("create as %d:%d: %v", uid, gid, err)
	}
	return e
}

func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("%s belongs to %d:%d (%v), want %d:%d", path, st.Uid, st.Gid, err, uid, gid)
	}
}

// TestIntegrationIDMapsRefused gives maps that the system refuses.
func TestIntegrationIDMapsRefused(t *testing.T) {
	makeMapUser(t)
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--uid-map=:0:0:1:"}, "newuidmap"},
		{[]string{"--uid-map=:0:2000000:65537:"}, "newuidmap"},
		{[]string{"--uid-map=:0:4719:1:", "--gid-map=:0:0:1:"}, "newgidmap"},
		{[]string{"--uid-map=:0:4719:1:", "--uid-map=:0:2000000:5:"}, "newuidmap"},
	} {
		d, dir := startMapped(t, test.args...)
		d.wantStatus(exitStart)
		if said := strings.Join(d.said, "\n"); !strings.Contains(said, test.says) || !strings.Contains(said, "by /etc/subuid: --uid-map=:0:4719:1: ") || !strings.Contains(said, ":2000000:65536:") {
			t.Errorf("%v says:\n%s", test.args, said)
		}
		wantNoFiles(t, dir+"/s")
	}
}

// TestIntegrationIDMapsRoot: root has no user namespace to map ids in.
func TestIntegrationIDMapsRoot(t *testing.T) {
	guest.NeedRoot(t)
	if !slices.Contains(sandboxes(), "namespace") {
		t.Skip("no namespaces here")
	}
	dir := tempDir(t)
	d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--uid-map=:0:1000:1:")
	d.wantStatus(exitStart)
	if said := strings.Join(d.said, "\n"); !strings.Contains(said, "other than root") || !strings.Contains(said, "--translate-uid") {
		t.Errorf("says:\n%s", said)
	}
}

// TestIntegrationOwnership makes files of all kinds with a daemon without privileges,
// confined in every way that it can be.
func TestIntegrationOwnership(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range []string{"namespace", "none"} {
		t.Run(box, func(t *testing.T) {
			d, dir := startMapped(t, "--ownership=xattr", "--xattr", "--sandbox="+box, "--security-label=auto")
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			f := makeAs(t, c, "file", 1000, 1001)
			wantShown(t, c, "file", unix.S_IFREG|0o644, 1000, 1001)
			a, err := c.Setattr(f.Entry.NodeID, fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID | fp.FattrMode, UID: 5, GID: 6, Mode: 0o4711})
			if err != nil || a.UID != 5 || a.GID != 6 || a.Mode != unix.S_IFREG|0o4711 {
				t.Errorf("SETATTR: %+v, %v", a, err)
			}
			tmp, err1 := c.Tmpfile(1, unix.O_RDWR, 0o600)
			_, err2 := c.Link(tmp.Entry.NodeID, 1, "linked")
			_, err3 := c.Mknod(1, "null", unix.S_IFCHR|0o666, 1<<8|3)
			_, err4 := c.Mkdir(1, "dir", 0o1777)
			c.UID, c.GID = 7, 8
			l, err5 := c.Symlink(1, "users", "target")
			c.UID, c.GID = 0, 0
			target, err6 := c.Readlink(l.NodeID)
			root, err7 := c.Symlink(1, "roots", "target")
			_, err8 := c.Setattr(root.NodeID, fp.SetattrIn{Valid: fp.FattrUID, UID: 9})
			err9 := c.Rename(1, "linked", 1, "moved", 0)
			if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil || target != "target" {
				t.Errorf("%q, %v", target, err)
			}
			wantShown(t, c, "moved", unix.S_IFREG|0o600, 0, 0)
			wantShown(t, c, "null", unix.S_IFCHR|0o666, 0, 0)
			wantShown(t, c, "dir", unix.S_IFDIR|0o1777, 0, 0)
			wantShown(t, c, "users", unix.S_IFLNK|0o777, 7, 8)
			wantShown(t, c, "roots", unix.S_IFLNK|0o777, 9, 0)
			c.Close()
			d.wantStatus(exitOK)
			for _, name := range []string{"file", "moved", "null", "dir", "users", "roots"} {
				wantOwner(t, dir+"/tree/"+name, mapUID, mapGID)
			}
		})
	}
}

// wantShown checks what the guest sees of a file in the root, after a listing.
func wantShown(t *testing.T, c *frontend.Client, name string, mode, uid, gid uint32) {
	t.Helper()
	list, err := c.ReadAll(1, true)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(d frontend.Dirent) bool { return d.Name == name })
	if i < 0 {
		t.Fatalf("%s is not in the listing", name)
	}
	if a := list[i].Entry.Attr; a.Mode != mode || a.UID != uid || a.GID != gid {
		t.Errorf("%s: %#o %d:%d, want %#o %d:%d", name, a.Mode, a.UID, a.GID, mode, uid, gid)
	}
}
