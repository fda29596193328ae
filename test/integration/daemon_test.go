// Package integration runs the daemon with real guests: User-Mode Linux for most
// tests, QEMU with two versions of the kernel for the rest.
package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// build makes a static program of the repository, once, and returns its path.
func build(t testing.TB, args ...string) string {
	t.Helper()
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(root, ".cache", "test-bin", strings.NewReplacer("/", "_", ".", "_").Replace(args[len(args)-1]))
	builds.Lock()
	defer builds.Unlock()
	if builds.done[out] {
		return out
	}
	args = append([]string{args[0], "-o", out}, args[1:]...)
	if args[0] == "test" {
		args = append([]string{"test", "-c"}, args[1:]...)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, b)
	}
	if builds.done == nil {
		builds.done = map[string]bool{}
	}
	builds.done[out] = true
	return out
}

var builds struct {
	sync.Mutex
	done map[string]bool
}

// daemon is a running govirtiofsd.
type daemon struct {
	guest.Share
	dir string // shared
	cmd *exec.Cmd
	log daemontest.Log
}

// start shares a new directory, or dir if it is not empty.
func start(t testing.TB, dir string, args ...string) *daemon {
	t.Helper()
	tmp := guest.TempDir(t)
	d := &daemon{dir: dir, Share: guest.Share{Tag: "fs", Socket: filepath.Join(tmp, "sock")}}
	if d.dir == "" {
		d.dir = filepath.Join(tmp, "share")
		if err := os.Mkdir(d.dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	d.cmd = exec.Command(build(t, "build", "./cmd/govirtiofsd"), append([]string{
		"--shared-dir", d.dir, "--socket-path", d.Socket, "--tag", d.Tag, "--log-level", "debug"}, args...)...)
	d.cmd.Stderr = &d.log
	// The daemon ends also when the test is killed.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := spawn.Start(d.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop(t) })
	for range 5000 {
		if _, err := os.Stat(d.Socket); err == nil {
			return d
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("the daemon has made no socket:\n%s", d.log.String())
	return nil
}

// servingPID is the process that serves the guest's files: the child of the one that was
// started.
func (d *daemon) servingPID(t testing.TB) int {
	t.Helper()
	pid := d.cmd.Process.Pid
	for range 5000 {
		for _, child := range daemontest.Children(t, pid) {
			return child
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nobody serves")
	return 0
}

// stop ends the daemon and checks that it has ended without an error, by itself or
// by SIGTERM.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(60*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("daemon: %v\n%s", err, tail(d.log.String()))
	}
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// run runs a script in a guest and fails unless its status is 0.
func run(t testing.TB, kind guest.Kind, o guest.Options) string {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 4 * time.Minute
	}
	r, err := guest.Run(context.Background(), kind, o)
	if err != nil || r.Status != 0 {
		t.Fatalf("guest: status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	return r.Output
}

// need skips or fails when a program of the host is missing.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		guest.Missing(t, p+" is not installed")
	}
}

// tree makes files of all sizes in folders.
func tree(t testing.TB, dir string, files int) {
	t.Helper()
	for i := range files {
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i%40))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		b := bytes.Repeat([]byte{byte(i), byte(i >> 8), 'x'}, i*7%5000)
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file%04d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
