package examples_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// TestTermInUse: SIGTERM ends a program whose mount is in use, with status 0. Who uses the mount gets an error from then on.
func TestTermInUse(t *testing.T) {
	guest.NeedFUSE(t)
	for name, args := range map[string]func(dir string) []string{
		"memfs":     func(dir string) []string { return []string{"--mount=" + dir} },
		"nullfs":    func(dir string) []string { return []string{"--mount=" + dir, t.TempDir()} },
		"recoverfs": func(dir string) []string { return []string{dir, t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(program(name), args(dir)...)
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			var before, after unix.Stat_t
			if err := unix.Stat(dir, &before); err != nil {
				t.Fatal(err)
			}
			if err := spawn.Start(cmd); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() {
				_ = unix.Unmount(dir, unix.MNT_DETACH)
				_ = cmd.Process.Kill()
			})
			for end := time.Now().Add(60 * time.Second); unix.Stat(dir, &after) != nil || after.Dev == before.Dev; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it does not mount")
				}
			}
			used, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = used.Close() }()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(60 * time.Second):
				t.Fatal("it does not end")
			}
			if _, err := used.Readdirnames(-1); err == nil {
				t.Error("the directory can still be listed")
			}
		})
	}
}
