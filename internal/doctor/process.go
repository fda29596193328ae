package doctor

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Process is what the caller may do. The doctor assumes that the daemon is started
// in the same way.
type Process struct {
	UID, GID     int
	User         string // "" if it has no name
	Capabilities []cap.Value
	NoFile       uint64 // hard limit
	NrOpen       uint64 // fs.nr_open, 0 if it can't be read
	Namespaces   error  // of making those of the sandbox
	// UserNamespaces says why users can't make user namespaces, as far as sysctls
	// tell: the sysctl that forbids it, with its value. It is empty if they can.
	UserNamespaces string
	NewUIDMap      bool // newuidmap and newgidmap are installed
	SubUIDs        []idRange
	SubGIDs        []idRange
}

// idRange is a line of /etc/subuid or /etc/subgid.
type idRange struct{ First, Count uint64 }

// process looks at the calling process.
func (h host) process(p *share.Config) Process {
	f := Process{UID: os.Geteuid(), GID: os.Getegid(), NrOpen: uint64(h.readInt("proc/sys/fs/nr_open", 0))}
	if u, err := user.LookupId(strconv.Itoa(f.UID)); err == nil {
		f.User = u.Username
	}
	set := cap.GetProc()
	for v := range cap.MaxBits() {
		if on, err := set.GetFlag(cap.Effective, v); err == nil && on {
			f.Capabilities = append(f.Capabilities, v)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		f.NoFile = limit.Max
	}
	if p.Sandbox == sandbox.ModeNamespace {
		f.Namespaces = tryNamespaces(f.UID)
	}
	f.UserNamespaces = h.userNamespaces()
	_, err1 := exec.LookPath("newuidmap")
	_, err2 := exec.LookPath("newgidmap")
	f.NewUIDMap = err1 == nil && err2 == nil
	f.SubUIDs = h.subIDs("etc/subuid", f.User, f.UID)
	f.SubGIDs = h.subIDs("etc/subgid", f.User, f.UID)
	return f
}

// tryNamespaces makes the sandbox's namespaces for a process that ends at once: its
// program does not exist. The error ENOENT shows that the namespaces could be made.
func tryNamespaces(uid int) error {
	cmd := exec.Command("/nonexistent/govirtiofs")
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET}
	if uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	err := cmd.Start()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// userNamespaces returns the sysctl that keeps users from making user namespaces.
func (h host) userNamespaces() string {
	for _, s := range []struct {
		name string
		bad  int
	}{
		{"kernel.unprivileged_userns_clone", 0}, // Debian, Arch
		{"user.max_user_namespaces", 0},
		{"kernel.apparmor_restrict_unprivileged_userns", 1}, // Ubuntu since 23.10
	} {
		path := "proc/sys/" + strings.ReplaceAll(s.name, ".", "/")
		if h.exists(path) && h.readInt(path, -1) == s.bad {
			return fmt.Sprintf("%s=%d", s.name, s.bad)
		}
	}
	return ""
}

// subIDs returns the ranges of a user in /etc/subuid or /etc/subgid.
func (h host) subIDs(path, name string, uid int) (out []idRange) {
	f, err := os.Open(filepath.Join(h.root, path))
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(parts) != 3 || parts[0] != strconv.Itoa(uid) && (name == "" || parts[0] != name) {
			continue
		}
		first, err1 := strconv.ParseUint(parts[1], 10, 32)
		count, err2 := strconv.ParseUint(parts[2], 10, 32)
		if err1 == nil && err2 == nil {
			out = append(out, idRange{first, count})
		}
	}
	return out
}

// process judges what the caller may do.
func (r *Report) process(p *share.Config, f *Process) {
	r.sandbox(p, f)
	r.capabilities(p, f)
	r.fileLimit(f)
	if len(p.UIDMaps)+len(p.GIDMaps) > 0 {
		r.idMaps(p, f)
	}
}

func (r *Report) sandbox(p *share.Config, f *Process) {
	const check = "sandbox"
	const others = "give the daemon --sandbox=none if something else confines it"
	switch p.Sandbox {
	case sandbox.ModeNone:
		r.add(Warn, check, "leave out --sandbox=none", "no sandbox is asked for: only names, capabilities and seccomp confine the daemon")
	case sandbox.ModeChroot:
		if f.UID != 0 || !slices.Contains(f.Capabilities, cap.SYS_CHROOT) {
			r.add(Fail, check, "start the daemon as root with CAP_SYS_CHROOT, or use --sandbox=namespace", "chroot is for root only")
			return
		}
		r.ok(check, "chroot can be used")
	default:
		r.namespaces(f, check, others)
	}
}

func (r *Report) namespaces(f *Process, check, others string) {
	switch {
	case f.Namespaces == nil:
		r.ok(check, "namespaces can be made")
	case f.UID != 0 && f.UserNamespaces != "":
		name, value, _ := strings.Cut(f.UserNamespaces, "=")
		want := map[string]string{"0": "1", "1": "0"}[value]
		if name == "user.max_user_namespaces" {
			want = "10000"
		}
		r.add(Fail, check, fmt.Sprintf("sudo sysctl -w %s=%s, or start the daemon as root, or %s", name, want, others),
			"users can't make namespaces: %s", f.UserNamespaces)
	default:
		r.add(Fail, check, "allow it in the container (Docker and Podman: --cap-add SYS_ADMIN and a seccomp profile with clone and unshare), or as root --sandbox=chroot, or "+others,
			"namespaces can't be made: %v", f.Namespaces)
	}
}

// capabilities judges the capabilities of root. Other users act as themselves only,
// which is no fault.
func (r *Report) capabilities(p *share.Config, f *Process) {
	const check = "capabilities"
	if f.UID != 0 && p.Ownership == passthrough.OwnershipXattr {
		r.ok(check, "not root: the guest has users of its own (--ownership=xattr); on the host all files belong to user %d", f.UID)
		return
	}
	if f.UID != 0 {
		if p.Sandbox == sandbox.ModeNone {
			r.ok(check, "not root: all of the guest's users act as user %d", f.UID)
		} else {
			r.ok(check, "not root: the guest's users are those of the user namespace; --ownership=xattr gives it users of its own, see also --uid-map")
		}
		return
	}
	var missing, names []string
	for _, v := range keeps(p) {
		if !slices.Contains(f.Capabilities, v) {
			missing = append(missing, strings.ToUpper(v.String()))
			names = append(names, strings.ToUpper(strings.TrimPrefix(v.String(), "cap_")))
		}
	}
	if len(missing) == 0 {
		r.ok(check, "all capabilities that the daemon keeps are there")
		return
	}
	status := Warn // what needs them fails with EPERM in the guest
	if p.Ownership == passthrough.OwnershipXattr {
		status = Warn // there is only one user to act as
	} else if slices.Contains(missing, "CAP_SETUID") || slices.Contains(missing, "CAP_SETGID") {
		status = Fail // every request of a user other than root fails
	}
	r.add(status, check, "container: --cap-add "+strings.Join(names, ",")+"; systemd: AmbientCapabilities= and CapabilityBoundingSet=",
		"root without %s", strings.Join(missing, " "))
}

// enoughFiles is less than the open files of a guest with a large tree.
const enoughFiles = 65536

func (r *Report) fileLimit(f *Process) {
	const check = "limits.nofile"
	limit := f.NoFile
	if slices.Contains(f.Capabilities, cap.SYS_RESOURCE) {
		limit = max(limit, sandbox.DefaultNoFile())
	}
	const remedy = "run `ulimit -Hn 1048576` as root in the shell that starts the daemon, LimitNOFILE=1048576 in a systemd unit, or a line in /etc/security/limits.d"
	switch {
	case limit == math.MaxUint64 || limit >= enoughFiles:
		r.ok(check, "up to %d open files", limit)
	case limit < 1024:
		r.add(Fail, check, remedy, "only %d files can be open", limit)
	default:
		r.add(Warn, check, remedy, "only %d files can be open: a guest that has more of them open gets ENFILE", limit)
	}
}

// idMaps judges whether newuidmap will set the maps.
func (r *Report) idMaps(p *share.Config, f *Process) {
	const check = "idmap"
	if f.UID == 0 {
		r.add(Fail, check, "leave out --uid-map and --gid-map, or start the daemon as another user", "id maps are for users other than root")
		return
	}
	u, g := r.outside(check, p.UIDMaps, f.UID), r.outside(check, p.GIDMaps, f.GID)
	if len(u)+len(g) == 0 {
		return
	}
	if !f.NewUIDMap {
		r.add(Fail, check, "sudo apt install uidmap (Fedora: shadow-utils-subid)", "newuidmap and newgidmap are not installed")
		return
	}
	who := f.User
	if who == "" {
		who = strconv.Itoa(f.UID)
	}
	good := r.allowed(check, u, f.SubUIDs, "/etc/subuid", who)
	if r.allowed(check, g, f.SubGIDs, "/etc/subgid", who) && good {
		r.ok(check, "the maps are allowed to %s", who)
	}
}

// outside returns the ranges of host ids that need newuidmap: all except the
// caller's own id.
func (r *Report) outside(check string, maps []string, own int) (out []idRange) {
	for _, s := range maps {
		m, err := sandbox.ParseIDMap(s)
		if err != nil {
			r.add(Fail, check, "", "%v", err)
			continue
		}
		if m.Outside != uint32(own) || m.Count != 1 {
			out = append(out, idRange{uint64(m.Outside), uint64(m.Count)})
		}
	}
	return out
}

func (r *Report) allowed(check string, want, have []idRange, file, who string) bool {
	good := true
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h idRange) bool {
			return w.First >= h.First && w.First+w.Count <= h.First+h.Count
		}) {
			good = false
			r.add(Fail, check, fmt.Sprintf("echo %s:%d:%d | sudo tee -a %s", who, w.First, w.Count, file),
				"%s does not give %s the ids %d to %d", file, who, w.First, w.First+w.Count-1)
		}
	}
	return good
}
