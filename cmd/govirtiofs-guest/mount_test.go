package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// These tests have the two ends on this machine: the daemon, and this program with /dev/fuse
// in a mount namespace of its own, joined by Unix sockets as a VMM's vsock device has them.

// The programs as they are shipped.
var daemonProgram, guestProgram string

const innerEnv = "GUEST_TEST_INNER" // a process in a mount namespace of its own: what it does

func TestMain(m *testing.M) {
	if what := os.Getenv(innerEnv); what != "" {
		if err := inner(what, os.Args[1:]); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("/tmp", "govirtiofs-guest")
	if err == nil {
		daemonProgram, guestProgram = filepath.Join(dir, "govirtiofsd"), filepath.Join(dir, "govirtiofs-guest")
		err = errors.Join(os.Chmod(dir, 0o755), guest.Build("-o", daemonProgram, "./cmd/govirtiofsd"), guest.Build("-o", guestProgram, "./cmd/govirtiofs-guest"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the programs:", err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// inner is a process in a mount namespace of its own.
func inner(what string, args []string) error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	switch what {
	case "drop":
		return dropElsewhere(args[0])
	case "model":
		return modelWorkload(args[0])
	case "shell":
		cmd := exec.Command("/bin/sh", "-e", "-c", args[0])
		cmd.Stdout, cmd.Stderr, cmd.Stdin = os.Stdout, os.Stdout, os.Stdin
		return cmd.Run()
	}
	return fmt.Errorf("no test %q", what)
}

// process is a process of inner.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // closed at its end
	said  []string
}

func startInner(t *testing.T, what string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("/proc/self/exe", args...), lines: make(chan string, 10000)}
	p.cmd.Env = append(os.Environ(), innerEnv+"="+what)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWNS}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err := spawn.Start(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
		close(p.lines)
	}()
	return p
}

// line returns the next line.
func (p *process) line() string {
	p.t.Helper()
	select {
	case s, ok := <-p.lines:
		if !ok {
			p.t.Fatalf("ended too early:\n%s", strings.Join(p.said, "\n"))
		}
		p.said = append(p.said, s)
		if strings.HasPrefix(s, "failed:") {
			p.t.Fatalf("%s\n%s", s, strings.Join(p.said[max(0, len(p.said)-3):], "\n"))
		}
		return s
	case <-time.After(60 * time.Second):
		p.t.Fatalf("says nothing more:\n%s", strings.Join(p.said, "\n"))
	}
	return ""
}

// end waits for the end, and returns all that was said.
func (p *process) end() string {
	p.t.Helper()
	_ = p.stdin.Close()
	for {
		select {
		case s, ok := <-p.lines:
			if !ok {
				if err := p.cmd.Wait(); err != nil {
					p.t.Fatalf("%v\n%s", err, strings.Join(p.said, "\n"))
				}
				return strings.Join(p.said, "\n")
			}
			p.said = append(p.said, s)
		case <-time.After(60 * time.Second):
			p.t.Fatalf("does not end:\n%s", strings.Join(p.said, "\n"))
		}
	}
}

// shellIn runs a script in this process's mount namespace.
func shellIn(script string) error {
	out, err := exec.Command("/bin/sh", "-e", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// shell runs a script in a mount namespace of its own, in which $GUEST is this program. It
// returns what the script has said.
func shell(t *testing.T, script string) string {
	t.Helper()
	return startInner(t, "shell", "GUEST="+guestProgram+"\n"+script).end()
}

// host is a daemon with a share.
type host struct {
	t      *testing.T
	dir    string
	share  string
	shares []string // values of --vsock-share; none is --shared-dir
	token  string
	socket string // where a VMM connects to
	cmd    *exec.Cmd
	log    *daemontest.Log
	// manager is who starts the daemon; nil is nobody who keeps descriptors.
	manager *daemontest.ServiceManager
}

func newHost(t *testing.T, args ...string) *host {
	t.Helper()
	guest.NeedRoot(t)
	guest.NeedFUSE(t)
	dir, err := os.MkdirTemp("/tmp", "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, share: filepath.Join(dir, "share"), token: filepath.Join(dir, "token"), socket: filepath.Join(dir, "v_1024")}
	for _, d := range []string{h.share, filepath.Join(dir, "mnt")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.token, []byte("a secret of some length\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start(args...)
	return h
}

// start starts the daemon, and waits until it listens.
func (h *host) start(args ...string) {
	h.t.Helper()
	h.log = &daemontest.Log{}
	args = append([]string{"--vsock-uds", filepath.Join(h.dir, "v"), "--vsock-token", h.token}, args...)
	for _, s := range h.shares {
		args = append(args, "--vsock-share", s)
	}
	if len(h.shares) == 0 {
		args = append(args, "--shared-dir", h.share)
	}
	h.cmd = exec.Command(daemonProgram, args...)
	h.cmd.Stderr = h.log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	done := func() {}
	if h.manager != nil {
		done = h.manager.Pass(h.cmd)
	}
	err := spawn.Start(h.cmd)
	done()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.cmd
	h.t.Cleanup(func() { _ = cmd.Process.Kill() })
	h.wait("Waiting for guests")
}

// wait waits until the daemon has said something.
func (h *host) wait(text string) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(h.log.String(), text) })
}

// stop ends the daemon as its service manager does.
func (h *host) stop() {
	h.t.Helper()
	_ = h.cmd.Process.Signal(unix.SIGTERM)
	if err := h.cmd.Wait(); err != nil {
		h.t.Errorf("the daemon at SIGTERM: %v\n%s", err, h.log)
	}
	if _, err := os.Lstat(h.socket); !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("the socket is left behind: %v", err)
	}
}

// mnt is where a guest mounts.
func (h *host) mnt() string { return filepath.Join(h.dir, "mnt") }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// TestIntegrationMount: a share is mounted, used and unmounted, by the subcommand and as mount(8)
// does it, and another time after that.
func TestIntegrationMount(t *testing.T) {
	h := newHost(t, "--tag", "data")
	said := shell(t, fmt.Sprintf("cd %s; $GUEST mount -o token=%s,share=other unix:v_1024 mnt && echo mounted || echo status $?", h.dir, h.token))
	if !strings.Contains(said, "no share") || !strings.Contains(said, "status 1") {
		t.Errorf("another share: %s", said)
	}
	h.stop()
	h.start()
	for _, how := range []string{"$GUEST mount -o token=" + h.token + ",noexec", "ln -sf $GUEST mount.govirtiofs; ./mount.govirtiofs -n -o rw,_netdev,channels=4,noexec,token=" + h.token} {
		said := shell(t, fmt.Sprintf(`cd %s
%s unix:v_1024 mnt 
grep govirtiofs /proc/self/mounts
dd if=/dev/urandom of=mnt/big bs=1M count=20 2>/dev/null
cmp mnt/big share/big
mkdir mnt/d mnt/d/e; echo text > mnt/d/f; ln -s f mnt/d/l; cat mnt/d/l; mv mnt/d/f mnt/d/g; ls mnt/d
rm -r mnt/d mnt/big; ls share
df mnt >/dev/null
umount mnt
`, h.dir, how))
		if !strings.Contains(said, "fuse.govirtiofs") || !strings.Contains(said, "noexec") || !strings.Contains(said, "text\ne\ng\nl") {
			t.Error(said)
		}
		eventually(t, "the end of the session", func() bool { return strings.Count(h.log.String(), "unmounted") > 0 })
		if strings.Contains(h.log.String(), "WARN") {
			t.Error(h.log)
		}
		h.stop()
		h.start()
	}
	h.stop()
}

// TestIntegrationFstab: mount(8) mounts by the type, and by the directory that is in fstab.
func TestIntegrationFstab(t *testing.T) {
	h := newHost(t)
	sbin := filepath.Join(h.dir, "sbin")
	if err := os.Mkdir(sbin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mount.govirtiofs", "mount.fuse.govirtiofs"} {
		if err := os.Symlink(guestProgram, filepath.Join(sbin, name)); err != nil {
			t.Fatal(err)
		}
	}
	fstab := fmt.Sprintf("unix:%s %s govirtiofs _netdev,nofail,x-systemd.automount,noexec,token=%s 0 0\n", h.socket, h.mnt(), h.token)
	if err := os.WriteFile(filepath.Join(h.dir, "fstab"), []byte(fstab), 0o644); err != nil {
		t.Fatal(err)
	}
	said := shell(t, fmt.Sprintf(`cd %s
mount -t overlay -o lowerdir=$PWD/sbin:/usr/sbin none /usr/sbin
mount -T fstab $PWD/mnt; echo one >mnt/file; grep govirtiofs /proc/self/mounts; umount mnt
mount -T fstab -a -O _netdev; cat mnt/file; umount mnt
mount -t govirtiofs -o ro,token=%[2]s unix:$PWD/v_1024 $PWD/mnt; cat mnt/file; echo two >mnt/file || echo read-only; umount mnt
mount -t fuse.govirtiofs -o token=%[2]s unix:$PWD/v_1024 $PWD/mnt; cat mnt/file; umount mnt
mount -t govirtiofs -o token=%[2]s,nonsense unix:$PWD/v_1024 $PWD/mnt || echo status $?
`, h.dir, h.token))
	if strings.Count(said, "one\n") != 3 || !strings.Contains(said, "noexec") || !strings.Contains(said, "read-only") || !strings.HasSuffix(said, "status 1") ||
		!strings.Contains(said, "no such option") {
		t.Error(said)
	}
	h.stop()
}

// TestIntegrationRefused: without the token nobody gets in, and the host says so.
func TestIntegrationRefused(t *testing.T) {
	h := newHost(t)
	wrong := filepath.Join(h.dir, "wrong")
	if err := os.WriteFile(wrong, []byte("another secret of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	for how, says := range map[string]string{"-o rw": "a token is needed", "-o token=" + wrong: "the token is wrong"} {
		said := shell(t, fmt.Sprintf(`cd %s; $GUEST mount %s unix:v_1024 mnt && echo mounted || echo status $?`, h.dir, how))
		if !strings.Contains(said, "status 1") || !strings.Contains(said, says) {
			t.Errorf("%s: %s", how, said)
		}
		h.wait(says)
	}
	// A program that speaks the protocol, and one that does not.
	c, err := net.Dial("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\n", 20))
	_, _ = io.ReadAll(c)
	h.wait("does not speak this protocol")
	if said := shell(t, fmt.Sprintf(`cd %s; $GUEST mount -o token=%s unix:v_1024 mnt; ls mnt; umount mnt`, h.dir, h.token)); said != "" {
		t.Error(said)
	}
	h.stop()
}

// TestIntegrationSecond: a share has one mount at a time, and the next one when that is gone.
func TestIntegrationSecond(t *testing.T) {
	h := newHost(t)
	mount := fmt.Sprintf("cd %s; $GUEST mount -o token=%s unix:v_1024 mnt", h.dir, h.token)
	said := shell(t, mount+"\nmkdir -p other\n"+mount+"/../other || echo status $?\numount mnt\n"+mount+"\numount mnt")
	if !strings.Contains(said, "in use by another mount") || !strings.Contains(said, "status 1") {
		t.Error(said)
	}
	h.stop()
}

// TestMoreProcessors: the scheduler has a processor for each goroutine that waits in the kernel, unless the user says another number.
func TestMoreProcessors(t *testing.T) {
	old := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(old)
	t.Setenv("GOMAXPROCS", "3")
	moreProcessors(2)
	if n := runtime.GOMAXPROCS(0); n != old {
		t.Errorf("%d processors, though GOMAXPROCS is set", n)
	}
	t.Setenv("GOMAXPROCS", "")
	moreProcessors(2)
	if n := runtime.GOMAXPROCS(0); n != runtime.NumCPU()+5 {
		t.Errorf("%d processors, want 5 more than %d", n, runtime.NumCPU())
	}
}
