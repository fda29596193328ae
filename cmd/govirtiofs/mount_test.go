package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/passthrough/fstest"
)

// programsDir is what programs has made, also if it failed.
var programsDir string

// programs builds the daemon and the tool as they are shipped, once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "govirtiofs-programs")
	if err != nil {
		return "", err
	}
	programsDir = dir
	return dir, guest.Build("-o", dir, "./cmd/govirtiofsd", "./cmd/govirtiofs")
})

func TestMain(m *testing.M) {
	status := m.Run()
	if programsDir != "" {
		_ = os.RemoveAll(programsDir)
	}
	os.Exit(status)
}

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// backend starts a back-end for dir and waits until it listens.
func backend(t testing.TB, path, dir string, args ...string) (socket string, cmd *exec.Cmd) {
	t.Helper()
	socket = filepath.Join(guest.TempDir(t), "sock")
	if filepath.Base(path) == guest.CPeer {
		args = append([]string{"--socket-path=" + socket, "-o", "source=" + dir + ",sandbox=chroot"}, args...)
	} else {
		args = append([]string{"--socket-path=" + socket, "--shared-dir=" + dir, "--sandbox=none"}, args...)
	}
	cmd = exec.Command(path, args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), log.String())
		}
	})
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket, cmd
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen:\n%s", path, log.String())
		}
	}
}

// mountTool runs "govirtiofs mount" until it is told to end, and waits for the mount.
func mountTool(t *testing.T, socket, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program(t, "govirtiofs"), append([]string{"mount", socket, dir}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(stderr)
	if line, _ := r.ReadString('\n'); !strings.Contains(line, "is mounted on") {
		rest, _ := io.ReadAll(r)
		t.Fatalf("%s%s", line, rest)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return cmd
}

// TestMountSuite runs the conformance suite over the whole path: this kernel's client,
// front-end, socket, queues, daemon.
func TestMountSuite(t *testing.T) {
	guest.NeedFUSE(t)
	source, target := t.TempDir(), t.TempDir()
	socket, daemon := backend(t, program(t, "govirtiofsd"), source, "--xattr", "--num-request-queues=2")
	cmd := mountTool(t, socket, target, "--queues=2", "--queue-size=256")
	t.Run("suite", func(t *testing.T) { // its working directory is in the mount
		fstest.Run(t, target, source, "ReaddirLarge") // 60,000 requests: guests do that one
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("mount: %v", err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("daemon: %v", err)
	}
}

// TestMountPeers: any back-end can be mounted.
func TestMountPeers(t *testing.T) {
	guest.NeedFUSE(t)
	for _, peer := range []string{guest.RustPeer, guest.CPeer} {
		t.Run(peer, func(t *testing.T) {
			path := guest.Peer(t, peer)
			source, target := t.TempDir(), t.TempDir()
			socket, _ := backend(t, path, source)
			mountTool(t, socket, target)
			exchange(t, source, target)
		})
	}
}

// exchange writes on either side and compares on the other.
func exchange(t *testing.T, source, target string) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{})
	for i, size := range []int{0, 1, 4095, 4096, 1<<20 + 1, 5 << 20} {
		from, to := source, target
		if i%2 == 0 {
			from, to = to, from
		}
		name := strings.Repeat("n", 1+i*50) // longer than what a request's first part holds
		data := make([]byte, size)
		_, _ = random.Read(data)
		if err := os.WriteFile(filepath.Join(from, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Errorf("%d bytes: %d arrived, %v", size, len(got), err)
		}
	}
	list, err := os.ReadDir(target)
	if err != nil || len(list) != 6 {
		t.Errorf("%d entries, %v; want 6", len(list), err)
	}
}

// TestMountCommand: the share is there for the command, whose exit status is passed on.
func TestMountCommand(t *testing.T) {
	guest.NeedFUSE(t)
	source, target := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, daemon := backend(t, program(t, "govirtiofsd"), source)
	cmd := exec.Command(program(t, "govirtiofs"), "mount", socket, target, "--", "sh", "-c", "cat "+target+"/file; exit 7")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(out) != "content" {
		t.Errorf("command: %q, %v; want exit status 7", out, err)
	}
	if list, err := os.ReadDir(target); err != nil || len(list) != 0 {
		t.Errorf("still mounted: %v, %v", list, err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("daemon: %v", err)
	}
}

// TestMountDaemonDies: nobody waits for a back-end that is gone.
func TestMountDaemonDies(t *testing.T) {
	guest.NeedFUSE(t)
	source, target := t.TempDir(), t.TempDir()
	socket, daemon := backend(t, program(t, "govirtiofsd"), source)
	cmd := mountTool(t, socket, target)
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("mount: %v, want exit status 1", err)
	}
	if list, err := os.ReadDir(target); err != nil || len(list) != 0 {
		t.Errorf("still mounted: %v, %v", list, err)
	}
}

// TestFuseHint: who may not open /dev/fuse is told what to do.
func TestFuseHint(t *testing.T) {
	for err, want := range map[error]string{
		&os.PathError{Op: "open", Path: "/dev/fuse", Err: unix.ENOENT}:                        "modprobe fuse",
		&os.PathError{Op: "open", Path: "/dev/fuse", Err: unix.EACCES}:                        "run this as root",
		errors.New("fusermount3: exit status 1: failed to open /dev/fuse: Permission denied"): "run this as root",
	} {
		if got := fuseHint(err); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: %v, want a word of %q", err, got, want)
		}
	}
	if got := fuseHint(errors.New("other")); got.Error() != "other" {
		t.Error("a hint about something else")
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
	}{
		{nil, 2},
		{[]string{"--help"}, 0},
		{[]string{"--version"}, 0},
		{[]string{"nonsense"}, 2},
		{[]string{"completion"}, 2},
		{[]string{"completion", "nonsense"}, 2},
		{[]string{"completion", "bash", "nonsense"}, 2},
		{[]string{"mount"}, 2},
		{[]string{"mount", "only-one"}, 2},
		{[]string{"mount", "--nonsense", "a", "b"}, 2},
		{[]string{"mount", "a", "b", "c"}, 2},
		{[]string{"mount", "--queues=0", "a", "/"}, 2},
		{[]string{"mount", "--queue-size=100", "a", "/"}, 2},
		{[]string{"mount", "--requests=0", "a", "/"}, 2},
		{[]string{"mount", "-o", "suid,nosuch", "a", "/"}, 2},
		{[]string{"mount", "a", "/nonexistent"}, 1},
		{[]string{"mount", "/nonexistent", "/"}, 1},
		{[]string{"mount", "a", "/etc/passwd"}, 1},
	} {
		if got := run(c.args); got != c.status {
			t.Errorf("govirtiofs %q: exit status %d, want %d", c.args, got, c.status)
		}
	}
}
