package doctor

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// well is a plan with facts that let a share work.
func well() (*share.Config, *Facts) {
	p := &share.Config{}
	share.Flags(p) // defaults
	p.SharedDir, p.SocketPath, p.Xattr, p.PosixACL, p.SecurityLabel = "/srv", "/run/fs.sock", true, passthrough.Always, passthrough.Always
	return p, &Facts{
		Kernel:  Kernel{Release: "6.18.1", Landlock: 7, Seccomp: true},
		Process: Process{Capabilities: append(sandbox.DefaultCapabilities(), cap.SYS_ADMIN), NoFile: 1 << 20},
		Share:   &Share{Path: "/srv", Mode: fs.ModeDir | 0o755, FSType: unix.EXT4_SUPER_MAGIC},
		Socket:  &Socket{Path: "/run/fs.sock", Mode: fs.ModeSocket | 0o700, Listening: true, Owners: []int{7}, Connected: 1, Front: []int{9}},
		VMMs: []VMM{{PID: 9, Name: "qemu", Shared: true, CPUs: 4, LockLimit: ^uint64(0),
			Devices: []FSDevice{{Tag: "data", Socket: "/run/fs.sock", Queues: 4, QueueSize: 1024}}}},
	}
}

func TestExamineWell(t *testing.T) {
	r := Examine(well())
	if r.Status != OK {
		t.Errorf("status %v", r.Status)
	}
	for _, f := range r.Checks {
		if f.Status != OK {
			t.Errorf("%+v", f)
		}
	}
}

// TestExamine breaks one thing at a time. Each case names the finding that must
// follow, with a word of its text and one of its remedy. No other finding may be
// worse than before.
func TestExamine(t *testing.T) {
	for name, test := range map[string]struct {
		spoil        func(p *share.Config, f *Facts)
		status       Status
		check        string
		text, remedy string
	}{
		"old kernel": {func(_ *share.Config, f *Facts) { f.Kernel.Missing = []string{"open_tree"} }, Fail, "kernel.features", "no open_tree", "Linux 5.2"},
		"old kernel without sandbox": {func(p *share.Config, f *Facts) {
			p.Sandbox = sandbox.ModeChroot
			f.Kernel.Missing = []string{"open_tree"}
			withCap(f, cap.SYS_CHROOT)
		},
			Warn, "kernel.features", "no open_tree", "Linux 5.2"},
		"no mount ids":      {func(_ *share.Config, f *Facts) { f.Kernel.Missing = []string{"statx mount ids"} }, Warn, "kernel.features", "submounts", "5.8"},
		"no landlock":       {func(_ *share.Config, f *Facts) { f.Kernel.Landlock = 0 }, Warn, "kernel.landlock", "no Landlock", "lsm="},
		"no seccomp":        {func(_ *share.Config, f *Facts) { f.Kernel.Seccomp = false }, Fail, "kernel.seccomp", "does not start", "--seccomp=none"},
		"no seccomp wanted": {func(p *share.Config, f *Facts) { f.Kernel.Seccomp = false; p.Seccomp = sandbox.FilterNone }, Warn, "kernel.seccomp", "none is asked for", ""},
		"no sandbox":        {func(p *share.Config, _ *Facts) { p.Sandbox = sandbox.ModeNone }, Warn, "sandbox", "no sandbox", "--sandbox=none"},
		"container":         {func(_ *share.Config, f *Facts) { f.Process.Namespaces = unix.EPERM }, Fail, "sandbox", "not permitted", "SYS_ADMIN"},
		"sysctl": {func(_ *share.Config, f *Facts) {
			f.Process.UID, f.Process.Namespaces = 1000, unix.EPERM
			f.Process.UserNamespaces = "kernel.apparmor_restrict_unprivileged_userns=1"
		}, Fail, "sandbox", "users can't", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		"no user namespaces": {func(_ *share.Config, f *Facts) {
			f.Process.UID, f.Process.Namespaces, f.Process.UserNamespaces = 1000, unix.ENOSPC, "user.max_user_namespaces=0"
		}, Fail, "sandbox", "max_user", "user.max_user_namespaces=10000"},
		"chroot as user":     {func(p *share.Config, f *Facts) { p.Sandbox = sandbox.ModeChroot; f.Process.UID = 1000 }, Fail, "sandbox", "root only", "namespace"},
		"without SETUID":     {func(_ *share.Config, f *Facts) { withoutCap(f, cap.SETUID) }, Fail, "capabilities", "CAP_SETUID", "--cap-add SETUID"},
		"without MKNOD":      {func(_ *share.Config, f *Facts) { withoutCap(f, cap.MKNOD) }, Warn, "capabilities", "CAP_MKNOD", "--cap-add MKNOD"},
		"few files":          {func(_ *share.Config, f *Facts) { f.Process.NoFile = 4096 }, Warn, "limits.nofile", "4096", "run `ulimit -Hn 1048576` as root in the shell that starts the daemon, LimitNOFILE=1048576 "},
		"very few files":     {func(_ *share.Config, f *Facts) { f.Process.NoFile = 256 }, Fail, "limits.nofile", "256", "LimitNOFILE"},
		"maps for root":      {func(p *share.Config, _ *Facts) { p.UIDMaps = []string{":0:100000:10:"} }, Fail, "idmap", "other than root", "leave"},
		"maps, no newuidmap": {func(p *share.Config, f *Facts) { asUser(f); p.UIDMaps = []string{":0:100000:10:"} }, Fail, "idmap", "not installed", "uidmap"},
		"maps, no subuid": {func(p *share.Config, f *Facts) {
			asUser(f)
			f.Process.NewUIDMap, f.Process.SubUIDs = true, []idRange{{100000, 10}}
			p.UIDMaps = []string{":0:1000:1:", ":1:100000:11:"}
		}, Fail, "idmap", "100000 to 100010", "echo joe:100000:11 | sudo tee -a /etc/subuid"},
		"map is nonsense": {func(p *share.Config, f *Facts) { asUser(f); p.GIDMaps = []string{":1:"} }, Fail, "idmap", "id map", ""},

		"no share":      {func(_ *share.Config, f *Facts) { f.Share = &Share{Path: "/a b", Err: os.ErrNotExist} }, Fail, "share", "does not exist", "mkdir -p '/a b'"},
		"closed share":  {func(_ *share.Config, f *Facts) { f.Share = &Share{Path: "/x", Err: unix.EACCES} }, Fail, "share", "denied", "namei -l /x"},
		"device shared": {func(_ *share.Config, f *Facts) { f.Share.Mode = fs.ModeDevice }, Fail, "share", "neither", "directory"},
		"file in chroot": {func(p *share.Config, f *Facts) {
			f.Share.Mode = 0o644
			p.Sandbox = sandbox.ModeChroot
			withCap(f, cap.SYS_CHROOT)
		}, Fail, "share", "chroot", "namespace"},
		"unreadable":  {func(_ *share.Config, f *Facts) { f.Share.CanRead = unix.EACCES }, Fail, "share", "can't be read", "chmod"},
		"unwritable":  {func(_ *share.Config, f *Facts) { f.Share.CanPut = unix.EACCES }, Warn, "share.mount", "can't write", "--readonly"},
		"read-only":   {func(_ *share.Config, f *Facts) { f.Share.Flags = unix.ST_RDONLY }, Warn, "share.mount", "read-only", "remount,rw"},
		"noexec":      {func(_ *share.Config, f *Facts) { f.Share.Flags = unix.ST_NOEXEC }, Warn, "share.mount", "noexec", "noexec in the guest"},
		"full":        {func(_ *share.Config, f *Facts) { f.Share.Full = true }, Warn, "share.mount", "no space", "df -i"},
		"nfs":         {func(_ *share.Config, f *Facts) { f.Share.FSType = unix.NFS_SUPER_MAGIC }, Warn, "share.filesystem", "nfs", "--cache=never"},
		"overlay":     {func(_ *share.Config, f *Facts) { f.Share.FSType = unix.OVERLAYFS_SUPER_MAGIC }, Warn, "share.filesystem", "nfs_export", "local"},
		"no xattrs":   {func(_ *share.Config, f *Facts) { f.Share.UserXattr = unix.ENOTSUP }, Fail, "share.xattr", "no extended", "ext4"},
		"no acls":     {func(_ *share.Config, f *Facts) { f.Share.ACL = unix.ENOTSUP }, Fail, "share.acl", "access control", "ext4"},
		"no security": {func(_ *share.Config, f *Facts) { f.Share.Security = unix.ENOTSUP }, Fail, "share.security", "labels", "ext4"},
		"unlabeled":   {func(_ *share.Config, f *Facts) { f.Share.Label = "system_u:object_r:unlabeled_t:s0" }, Warn, "share.label", "unlabeled_t", "restorecon"},
		"no handles":  {func(_ *share.Config, f *Facts) { f.Share.Handle = unix.ENOTSUP }, Warn, "share.handles", "descriptor", ""},
		"no tmpfile":  {func(_ *share.Config, f *Facts) { f.Share.TmpFile = unix.ENOTSUP }, Warn, "share.tmpfile", "O_TMPFILE", ""},
		"no fanotify": {func(c *share.Config, f *Facts) { c.Events, f.Share.Watch = share.EventsAuto, unix.ENOSYS }, Warn, "share.caching", "can't be watched", ""},
		"no nowait":   {func(_ *share.Config, f *Facts) { f.Share.Nowait = unix.EOPNOTSUPP }, Warn, "share.nowait", "RWF_NOWAIT", ""},

		"ownership, no xattrs": {func(p *share.Config, f *Facts) {
			p.Xattr, p.Ownership, f.Share.UserXattr = false, passthrough.OwnershipXattr, unix.ENOTSUP
		}, Fail, "share.xattr", "--ownership=xattr", "ext4"},
		"ownership, no SETUID": {func(p *share.Config, f *Facts) { p.Ownership = passthrough.OwnershipXattr; withoutCap(f, cap.SETUID) }, Warn, "capabilities", "CAP_SETUID", "SETUID"},
		"overlayfs, no xattrs": {func(p *share.Config, f *Facts) {
			p.Xattr, f.Share.UserXattr = false, unix.ENOTSUP
			names(t, p, "overlayfs")
		}, Fail, "share.xattr", "--xattrmap-preset", "ext4"},
		"selinux, as user":    {func(p *share.Config, f *Facts) { asUser(f); names(t, p, "selinux") }, Fail, "share.trusted", "only CAP_SYS_ADMIN", "selinux-user"},
		"selinux, no modcaps": {func(p *share.Config, _ *Facts) { names(t, p, "selinux") }, Fail, "share.trusted", "does not keep", "--modcaps=+sys_admin"},
		"selinux, no trusted": {func(p *share.Config, f *Facts) {
			names(t, p, "selinux")
			p.ModCaps, f.Share.TrustedXattr = "+sys_admin", unix.ENOTSUP
		}, Fail, "share.trusted", "not supported", "ext4"},
		"modcaps":            {func(p *share.Config, f *Facts) { p.ModCaps = "-mknod:+sys_ptrace"; withoutCap(f, cap.MKNOD) }, Warn, "capabilities", "CAP_SYS_PTRACE", "--cap-add SYS_PTRACE"},
		"host locks":         {func(p *share.Config, _ *Facts) { p.Locks = share.LocksHost }, Warn, "share.locks", "can't be interrupted", "--locks=host"},
		"dax, old kernel":    {func(p *share.Config, f *Facts) { withDAX(p, f); f.Kernel.Release = "6.8.0-31-generic" }, Warn, "dax", "2 MiB", "6.9"},
		"dax, as user":       {func(p *share.Config, f *Facts) { withDAX(p, f); asUser(f) }, Warn, "dax", "without root", "root"},
		"dax, readonly":      {func(p *share.Config, f *Facts) { withDAX(p, f); p.ReadOnly = true }, Warn, "dax", "maps none", "-o ro"},
		"dax, vhost-user-fs": {func(p *share.Config, f *Facts) { withDAX(p, f); f.VMMs[0].Devices[0].Generic = false }, Warn, "vmm.dax", "no window", "vhost-user-test-device-pci"},
		"dax, not with QEMU": {func(p *share.Config, f *Facts) { withDAX(p, f); f.VMMs[0].Name = "uml" }, Warn, "vmm.dax", "with uml", "QEMU 11.1"},

		"long path":      {func(_ *share.Config, f *Facts) { f.Socket.Path = strings.Repeat("x", 108) }, Fail, "socket", "107", "shorter"},
		"no socket":      {func(_ *share.Config, f *Facts) { f.Socket.Err = os.ErrNotExist }, Warn, "socket", "no daemon", "govirtiofsd --socket-path /run/fs.sock --shared-dir /srv"},
		"no socket dir":  {func(_ *share.Config, f *Facts) { f.Socket.Err, f.Socket.DirErr = os.ErrNotExist, unix.ENOENT }, Fail, "socket", "/run", "mkdir -p /run"},
		"closed dir":     {func(_ *share.Config, f *Facts) { f.Socket.Err, f.Socket.DirErr = os.ErrNotExist, unix.EACCES }, Fail, "socket", "can't make", "XDG_RUNTIME_DIR"},
		"file as socket": {func(_ *share.Config, f *Facts) { f.Socket.Mode = 0o644 }, Fail, "socket", "not a socket", "choose another path"},
		"stale":          {func(_ *share.Config, f *Facts) { f.Socket.Listening, f.Socket.Connected = false, 0 }, Fail, "socket.daemon", "left", "--keep-listening"},
		"vmm of another": {func(_ *share.Config, f *Facts) { f.VMMs[0].UID = 64055 }, Fail, "socket.access", "64055", "--socket-group"},
		"not ours":       {func(_ *share.Config, f *Facts) { f.VMMs = nil; f.Socket.Connect = unix.EACCES }, Warn, "socket.access", "may not", "--socket-group"},

		"memory":        {func(_ *share.Config, f *Facts) { f.VMMs[0].Shared, f.VMMs[0].Memory = false, "4G" }, Fail, "vmm.memory", "not shared", "memory-backend-memfd,id=mem,size=4G,share=on"},
		"memory in MiB": {func(_ *share.Config, f *Facts) { f.VMMs[0].Shared, f.VMMs[0].Memory = false, "512" }, Fail, "vmm.memory", "not shared", "size=512M,"},
		"backend without share": {func(_ *share.Config, f *Facts) { f.VMMs[0].Shared, f.VMMs[0].Backend = false, "memory-backend-file" },
			Fail, "vmm.memory", "memory-backend-file", "share=on"},
		"cloud-hypervisor": {func(_ *share.Config, f *Facts) { f.VMMs[0].Shared, f.VMMs[0].Name = false, "cloud-hypervisor" }, Fail, "vmm.memory", "shared=on", "--memory"},
		"short queues":     {func(_ *share.Config, f *Facts) { f.VMMs[0].Devices[0].QueueSize = 0 }, Warn, "vmm.queue-size", "496 KiB", "queue-size=1024"},
		"no device":        {func(_ *share.Config, f *Facts) { f.VMMs[0].Devices = nil }, Fail, "vmm.device", "no virtio-fs", "vhost-user-fs-pci"},
		"apparmor":         {func(_ *share.Config, f *Facts) { f.VMMs[0].AppArmor = "libvirt-1" }, Warn, "vmm.apparmor", "libvirt-1", "libvirt-qemu"},
		"memlock":          {func(_ *share.Config, f *Facts) { f.VMMs[0].Locks, f.VMMs[0].LockLimit = true, 65536 }, Warn, "vmm.memlock", "65536", "ulimit -l"},
		"no vmm":           {func(_ *share.Config, f *Facts) { f.VMMs[0].Name = "" }, Warn, "vmm", "no VMM", "wrapper"},
		"vmm is gone":      {func(_ *share.Config, f *Facts) { f.VMMs = []VMM{{PID: 999999, Err: os.ErrNotExist}} }, Fail, "vmm", "no process 999999", "pgrep"},
		"vmm ended":        {func(_ *share.Config, f *Facts) { f.VMMs = []VMM{{PID: 999999, Err: unix.ESRCH}} }, Fail, "vmm", "no process 999999", "pgrep"},
		"vmm unseen":       {func(_ *share.Config, f *Facts) { f.VMMs[0].Err = unix.EACCES }, Warn, "vmm", "can't be checked", "root"},
	} {
		t.Run(name, func(t *testing.T) {
			p, f := well()
			test.spoil(p, f)
			expectFinding(t, Examine(p, f), test.status, test.check, test.text, test.remedy)
		})
	}
}

// TestExamineUser examines for an ordinary user. No line is about sockets that the
// user did not ask for. The way without root's help comes first.
func TestExamineUser(t *testing.T) {
	p, f := well()
	asUser(f)
	p.SocketPath, f.Socket, f.VMMs = "", nil, nil
	r := Examine(p, f)
	expectFinding(t, r, OK, "share.locks", "other guests and the host do not see them", "--locks=host")
	expectFinding(t, r, OK, "capabilities", "--ownership=xattr gives it users of its own, see also --uid-map", "")
	for _, c := range r.Checks {
		if c.Check == "vmm" {
			t.Errorf("unexpected: %+v", c)
		}
	}
	p, f = well()
	f.VMMs = nil
	f.Socket.Connected, f.Socket.Front = 0, nil
	expectFinding(t, Examine(p, f), OK, "vmm", "no VMM that uses the socket", "--pid PID")
	f.Socket.Connected, f.Socket.Front = 1, []int{4711} // govirtiofs mount
	expectFinding(t, Examine(p, f), OK, "vmm", "process 4711 uses the socket, and is no VMM that this program knows", "")
}

// TestExamineDaemon: the words fit one process and several.
func TestExamineDaemon(t *testing.T) {
	for _, test := range []struct {
		s    Socket
		text string
	}{
		{Socket{Listening: true, Owners: []int{7}}, "process 7 listens on /run/fs.sock"},
		{Socket{Listening: true, Owners: []int{7, 8}}, "processes 7, 8 listen on /run/fs.sock"},
		{Socket{Listening: true, Connected: 1, Owners: []int{7, 8}, Front: []int{9}}, "processes 7, 8 serve process 9, and listen for the next VMM"},
		{Socket{Connected: 1, Owners: []int{7}, Front: []int{9}}, "process 7 serves process 9; nobody listens for another VMM"},
	} {
		r := &Report{}
		test.s.Path = "/run/fs.sock"
		r.listening(&test.s)
		expectFinding(t, r, OK, "socket.daemon", test.text, "")
	}
}

// expectFinding checks that a report has exactly one kind of fault.
func expectFinding(t *testing.T, r *Report, status Status, check, text, remedy string) {
	t.Helper()
	if r.Status != status {
		t.Errorf("status %v, want %v", r.Status, status)
	}
	found := false
	for _, f := range r.Checks {
		switch {
		case f.Check == check && f.Status == status && strings.Contains(f.Text, text) && strings.Contains(f.Remedy, remedy):
			found = true
		case f.Status != OK:
			t.Errorf("unexpected: %+v", f)
		}
	}
	if !found {
		t.Errorf("no finding %v %q with %q and %q in %+v", status, check, text, remedy, r.Checks)
	}
}

// TestExamineOptions has options whose requirements are met.
func TestExamineOptions(t *testing.T) {
	for name, test := range map[string]struct {
		change      func(p *share.Config, f *Facts)
		check, text string
	}{
		"ownership, as user": {func(p *share.Config, f *Facts) { p.Ownership = passthrough.OwnershipXattr; asUser(f) }, "capabilities", "users of its own"},
		"ownership":          {func(p *share.Config, _ *Facts) { p.Ownership = passthrough.OwnershipXattr }, "share.xattr", "work"},
		"selinux":            {func(p *share.Config, _ *Facts) { names(t, p, "selinux"); p.ModCaps = "+sys_admin" }, "share.trusted", "work"},
		"dax":                {withDAX, "vmm.dax", "QEMU 11.1"},
		"dax on the host":    {withDAX, "dax", "any size"},
	} {
		t.Run(name, func(t *testing.T) {
			p, f := well()
			test.change(p, f)
			expectFinding(t, Examine(p, f), OK, test.check, test.text, "")
		})
	}
	p, f := well()
	f.Share.TrustedXattr = unix.EPERM // does not matter when nothing is kept there
	names(t, p, "selinux-user")
	for _, c := range Examine(p, f).Checks {
		if c.Check == "share.trusted" || c.Check == "dax" || c.Check == "vmm.dax" {
			t.Errorf("unexpected: %+v", c)
		}
	}
}

func names(t *testing.T, p *share.Config, preset string) {
	t.Helper()
	m, err := xattrmap.Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	p.Names = m
}

func withDAX(p *share.Config, f *Facts) { p.DAX, f.VMMs[0].Devices[0].Generic = share.DAXInode, true }

func withCap(f *Facts, v cap.Value) {
	f.Process.Capabilities = append(f.Process.Capabilities, v)
}

func withoutCap(f *Facts, v cap.Value) {
	f.Process.Capabilities = slices.DeleteFunc(f.Process.Capabilities, func(c cap.Value) bool { return c == v })
}

func asUser(f *Facts) { f.Process.UID, f.Process.GID, f.Process.User = 1000, 1000, "joe" }

func TestReportFormats(t *testing.T) {
	r := &Report{}
	r.ok("a", "fine")
	r.add(Fail, "long.check", "do this", "broken %d", 7)
	var text, js bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	want := "ok    a           fine\nFAIL  long.check  broken 7\n                  -> do this\n"
	if text.String() != want {
		t.Errorf("got\n%s, want\n%s", text.String(), want)
	}
	if err := r.WriteJSON(&js); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Status string
		Checks []struct{ Check, Status, Text, Remedy string }
	}
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back.Status != "fail" || len(back.Checks) != 2 || back.Checks[1].Remedy != "do this" || back.Checks[0].Status != "ok" {
		t.Errorf("%s", js.String())
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c.d": "/a/b-c.d", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$(x)": "'$(x)'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
