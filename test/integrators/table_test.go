package integrators

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// wait is what a program waits for before it lets the VMM connect.
type wait int

const (
	nothing wait = iota // the socket listens already
	socketFile
	pidFile
	line
)

// ending is how a program ends the daemon.
type ending int

const (
	disconnect ending = iota // the VMM ends, and then the daemon ends by itself
	sigterm
	sigkill
	pidTerm // SIGTERM to the process that the pid file names
)

// integrator is how one program starts the daemon.
type integrator struct {
	name     string
	args     string // see place.args
	fd       int    // number of the listening socket that it passes, 0 is none
	wait     wait
	ending   ending
	readOnly bool
	env      []string
	inShare  bool // the working directory is the share
	inDir    bool // the working directory is that of the socket
	attr     *syscall.SysProcAttr
	noStdin  bool
	shell    string // starts "$0" "$@" in an indirect way
	group    string // the group of the socket
}

// nobody is a user without privileges.
const nobody = 65534

var integrators = []integrator{
	{name: "Kata, Go", args: "--syslog --cache=auto --shared-dir=D --fd=3 --thread-pool-size=1 --announce-submounts", fd: 3, ending: sigkill},
	{name: "Kata, Go, SELinux", args: "--syslog --cache=auto --shared-dir=D --fd=3 --thread-pool-size=1 --announce-submounts --xattr", fd: 3},
	{name: "Kata, Rust", args: "--socket-path S --shared-dir D --cache auto --thread-pool-size=1 -o announce_submounts --xattr", wait: line, ending: sigkill},
	{name: "Kata, Rust, rootless", args: "--socket-path sock --shared-dir D --cache auto --thread-pool-size=1 -o announce_submounts",
		wait: socketFile, inDir: true, attr: as(nobody), ending: sigkill},

	// libvirt passes descriptors with high numbers, and is no longer the parent.
	{name: "libvirt", args: "--fd=30 --shared-dir D --cache always --sandbox namespace --xattr --thread-pool-size=4 --rlimit-nofile=1024 --log-level debug", fd: 30, shell: background},
	{name: "libvirt, read-only", args: "--fd=30 --shared-dir D --sandbox chroot --readonly", fd: 30, shell: background, readOnly: true},
	{name: "libvirt, session", args: "--fd=30 --shared-dir D --uid-map=:0:65534:1: --gid-map=:0:65534:1:", fd: 30, shell: background, attr: as(nobody)},
	{name: "libvirt, before 10", args: "--fd=30 -o source=D,cache=always,sandbox=namespace,xattr,flock,posix_lock -d", fd: 30, shell: background},
	{name: "libvirt, before 10, no locks", args: "--fd=30 -o source=D,cache=none,no_flock,no_posix_lock", fd: 30, shell: background},

	{name: "virtme-ng", args: "--syslog --no-announce-submounts --socket-path S --shared-dir D --sandbox none -o cache=always",
		wait: pidFile, shell: `"$0" "$@" 2>/dev/null &`, ending: pidTerm},
	{name: "virtme-ng, before 1.30", args: "--syslog --no-announce-submounts --posix-acl --readonly --socket-path S --shared-dir D --sandbox none --cache always",
		wait: pidFile, shell: `"$0" "$@" &`, ending: disconnect, readOnly: true},

	{name: "Incus", args: "--fd=3 --cache=metadata --shared-dir=D --posix-acl=auto", fd: 3, ending: sigterm},
	{name: "Incus, id map", args: "--fd=3 --cache=never --shared-dir=D --translate-uid=map:0:100000:65536 --translate-uid=forbid-guest:65536:0 " +
		"--translate-gid=map:0:100000:65536 --translate-gid=forbid-guest:65536:0", fd: 3},
	{name: "LXD", args: "--fd=3 --shared-dir D --cache auto --allow-direct-io --thread-pool-size 8 --xattr", fd: 3, ending: sigkill},
	{name: "LXD, id map", args: "--fd=3 --shared-dir D --cache auto --allow-direct-io --thread-pool-size 8 --xattr", fd: 3,
		attr: asRootOf(syscall.SysProcIDMap{HostID: 100000, Size: 65536})},

	{name: "Lima", args: "--socket-path S --shared-dir D", wait: socketFile, attr: as(nobody), ending: sigterm},
	{name: "Podman machine", args: "--sandbox none --socket-path S --shared-dir . --seccomp=none", wait: socketFile, inShare: true,
		env: []string{"RUST_LOG=ERROR"}, attr: as(nobody)},

	{name: "mkosi", args: "--shared-dir D --xattr --no-announce-submounts --sandbox=chroot --inode-file-handles=prefer --log-level=error --modcaps=-mknod --fd 3", fd: 3,
		attr: asRootOf(syscall.SysProcIDMap{Size: 1}), ending: sigterm},
	{name: "mkosi, root", args: "--shared-dir D --xattr --no-announce-submounts --sandbox=chroot --inode-file-handles=never --log-level=error --modcaps=-mknod --security-label=auto --fd 3",
		fd: 3, ending: sigterm},
	{name: "systemd-vmspawn", args: "--shared-dir D --xattr --fd 3 --no-announce-submounts --log-level=error --modcaps=-mknod", fd: 3,
		noStdin: true, attr: &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}, ending: sigterm},
	{name: "systemd-vmspawn, ids", args: "--shared-dir D --xattr --fd 3 --no-announce-submounts --log-level=error --modcaps=-mknod " +
		"--translate-uid map:0:100000:65536 --translate-gid map:0:100000:65536", fd: 3, noStdin: true, ending: sigterm},
	{name: "systemd-vmspawn, user namespace", args: "--shared-dir D --xattr --fd 3 --no-announce-submounts --log-level=error --modcaps=-mknod", fd: 3,
		noStdin: true, attr: asRootOf(syscall.SysProcIDMap{HostID: 100000, Size: 65536})},

	{name: "Proxmox", args: "--fd=6 --shared-dir=D --xattr --posix-acl --announce-submounts --allow-direct-io --cache=auto --syslog", fd: 6, shell: background},
	{name: "Proxmox, Windows", args: "--fd=6 --shared-dir=D --announce-submounts --cache=metadata --inode-file-handles=prefer --syslog", fd: 6, shell: background},

	{name: "microvm.nix", args: "--socket-path=S --socket-group=daemon --shared-dir=D --rlimit-nofile 1048576 --thread-pool-size 4 --posix-acl --xattr --cache=auto " +
		"--inode-file-handles=never --tag=T", wait: socketFile, group: "daemon", ending: sigterm},
	{name: "microvm.nix, read-only", args: "--socket-path=S --shared-dir=D --thread-pool-size 4 --cache=always --readonly", wait: socketFile, readOnly: true},
	{name: "bcvk", args: "--socket-path S --shared-dir D --cache=never --allow-mmap --sandbox=none --inode-file-handles=fallback", wait: socketFile,
		attr: &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}},
}

// background starts the daemon as a grandchild, with nothing on standard input.
const background = `( "$0" "$@" </dev/null & )`

// TestIntegrationStarts starts the daemon as each of these programs does.
func TestIntegrationStarts(t *testing.T) {
	guest.NeedRoot(t)
	for _, in := range integrators {
		t.Run(in.name, func(t *testing.T) { in.test(t) })
	}
}

func (in integrator) test(t *testing.T) {
	p := newPlace(t)
	d := start(t, in.command(t, p))
	switch in.wait {
	case socketFile:
		d.waitFile(p.socket)
	case pidFile:
		d.waitFile(p.socket + ".pid")
		d.waitFile(p.socket)
	case line:
		d.waitLine("Waiting for vhost-user socket connection")
	}
	in.checkGroup(t, p)
	c := mount(t, p.socket, !in.readOnly)
	in.end(t, d, p, func() { c.Close() })
}

// command prepares the process.
func (in integrator) command(t *testing.T, p place) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, p.args(in.args)...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, in.env...)
	cmd.Dir = "/"
	switch {
	case in.inShare:
		cmd.Dir = p.share
	case in.inDir:
		cmd.Dir = p.dir
	}
	script := in.shell
	if in.noStdin {
		script = `exec "$0" "$@" <&-`
	}
	if script != "" {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script}, cmd.Args...)
	}
	if in.fd != 0 {
		cmd.ExtraFiles = make([]*os.File, in.fd-2) // nil is a closed descriptor
		cmd.ExtraFiles[in.fd-3] = p.listen(t)
		t.Cleanup(func() { cmd.ExtraFiles[in.fd-3].Close() })
	}
	if in.attr != nil {
		attr := *in.attr
		cmd.SysProcAttr = &attr
	}
	return cmd
}

func (in integrator) checkGroup(t *testing.T, p place) {
	t.Helper()
	var st unix.Stat_t
	if in.group == "" {
		return
	}
	if err := unix.Lstat(p.socket, &st); err != nil || st.Mode&0o777 != 0o770 || st.Gid == 0 {
		t.Errorf("socket: mode %o, group %d, %v", st.Mode, st.Gid, err)
	}
}

// end ends the daemon as the program does. Afterwards no process is left, and no
// file unless the daemon was killed.
func (in integrator) end(t *testing.T, d *process, p place, disconnected func()) {
	t.Helper()
	switch in.ending {
	case disconnect:
		disconnected()
		d.wantEnd(0)
	case sigterm:
		_ = d.cmd.Process.Signal(unix.SIGTERM)
		d.wantEnd(0)
		disconnected()
	case sigkill:
		_ = d.cmd.Process.Kill()
		d.wantEnd(-1)
		disconnected()
		return
	case pidTerm:
		b, err := os.ReadFile(p.socket + ".pid")
		pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || err2 != nil {
			t.Fatalf("pid file: %q, %v", b, err)
		}
		_ = unix.Kill(pid, unix.SIGTERM)
		d.wantEnd(0)
		disconnected()
	}
	if in.fd == 0 {
		for _, name := range []string{p.socket, p.socket + ".pid"} {
			for range 5000 { // a background process ends after its shell
				if _, err := os.Lstat(name); err != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if _, err := os.Lstat(name); err == nil {
				t.Errorf("%s is left", name)
			}
		}
	}
}

// TestIntegrationQuestions asks for what programs ask before they start a
// daemon.
func TestIntegrationQuestions(t *testing.T) {
	for _, test := range []struct{ who, arg, want string }{
		{"Lima, virtme-ng", "--version", "virtiofsd 1.14.0 (govirtiofsd "},
		{"bcvk, virtme-ng", "--help", "--readonly"},
		{"libvirt", "--print-capabilities", `"separate-options"`},
		{"Incus", "--print-capabilities", `"posix-acl-negotiation-mode"`},
	} {
		cmd := exec.Command(program, test.arg)
		cmd.Env = nil
		out, err := cmd.Output() // the exit status, and standard output alone
		if err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %s: got %q, %v", test.who, test.arg, out, err)
		}
	}
}
