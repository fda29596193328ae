// Package mounttest mounts file systems of tests with /dev/fuse. A process must not use
// files that it serves itself, so the test program is started once more to serve them.
package mounttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

const (
	nameEnv = "MOUNTTEST_NAME"
	dirEnv  = "MOUNTTEST_DIR"
)

// Main runs the tests, or serves one of the file systems for them. It returns the exit status
// for TestMain.
func Main(m *testing.M, systems map[string]func() fuse.Handler) int {
	name := os.Getenv(nameEnv)
	if name == "" {
		return m.Run()
	}
	if err := serve(systems[name](), os.Getenv(dirEnv)); err != nil {
		fmt.Fprintln(os.Stderr, "mounttest:", err)
		return 1
	}
	return 0
}

// Connected is a handler that is told of its mount before it is served, as one that sends
// notifications must be.
type Connected struct {
	fuse.Handler
	Connect func(m *fusedev.Mount)
}

func serve(h fuse.Handler, dir string) error {
	m, err := fusedev.New(dir, fusedev.Options{Subtype: "test", AllowOther: true, Permissions: true})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	if c, ok := h.(Connected); ok {
		c.Connect(m)
	}
	fmt.Println("ready")
	err = m.Serve(h, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return errors.Join(err, h.Close(ctx))
}

// Mount mounts a file system of Main's map until the test ends, and returns the directory.
// The test is skipped where that can't be done.
func Mount(t testing.TB, name string) string {
	t.Helper()
	guest.NeedFUSE(t)
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), nameEnv+"="+name, dirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	Start(t, cmd, dir)
	return dir
}

// Start starts a program that serves file systems on dirs and then prints a line. When the test
// ends they are unmounted, and the program must end without an error.
func Start(t testing.TB, cmd *exec.Cmd, dirs ...string) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	atEnd(t, cmd, cmd.Wait, dirs...)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
}

// StartMount is Start for a program that says nothing: it waits until something is mounted on dir.
func StartMount(t testing.TB, cmd *exec.Cmd, dir string) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var before, after unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &before), spawn.Start(cmd)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := unix.Stat(dir, &after); err == nil && after.Dev != before.Dev {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("%s has ended: %v", cmd, err)
		default:
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			t.Fatalf("%s does not mount", cmd)
		}
	}
	atEnd(t, cmd, func() error { return <-ended }, dir)
}

// atEnd unmounts dirs when the test ends, and waits for the program that serves them.
func atEnd(t testing.TB, cmd *exec.Cmd, wait func() error, dirs ...string) {
	t.Cleanup(func() {
		for _, dir := range dirs {
			if err := Unmount(dir); err != nil {
				t.Errorf("unmount: %v", err)
				_ = unix.Unmount(dir, unix.MNT_DETACH)
				_ = cmd.Process.Kill()
			}
		}
		if err := wait(); err != nil {
			t.Errorf("%s: %v", cmd, err)
		}
	})
}

// Program starts a program that serves a file system on a new directory, and waits until it is
// mounted. The directory is the value of the option --mount. args follow it. When the test ends
// the file system is unmounted, and the program must end without an error.
func Program(t testing.TB, path string, args ...string) (dir string) {
	t.Helper()
	guest.NeedFUSE(t)
	dir = t.TempDir()
	cmd := exec.Command(path, append([]string{"--mount=" + dir}, args...)...)
	cmd.Stderr = os.Stderr
	StartMount(t, cmd, dir)
	return dir
}

// Unmount unmounts dir. It tries again while a child that has inherited an open file below dir
// has not reached its exec or its end.
func Unmount(dir string) error {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}
