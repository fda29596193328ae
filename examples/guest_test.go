package examples_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// serve starts a program for guests. At the end of the test it gets SIGTERM, and must end with
// status 0 and without its socket.
func serve(t *testing.T, name string, args ...string) guest.Share {
	t.Helper()
	socket := filepath.Join(guest.TempDir(t), name)
	return start(t, name, socket, exec.Command(program(name), append([]string{"--socket-path=" + socket}, args...)...))
}

func start(t *testing.T, name, socket string, cmd *exec.Cmd) guest.Share {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stuck := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the socket is left: %v", name, err)
		}
	})
	return guest.Share{Tag: name, Socket: socket}
}

// TestIntegrationGuest: all examples in one guest, and the suite of the file systems on memfs.
func TestIntegrationGuest(t *testing.T) {
	guest.Need(t, guest.UML)
	null, rot13, hide, upper, lower, loop := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	write(t, null, "from-host")
	write(t, hide, "visible", "secret.key")
	write(t, upper, "dir/a")
	write(t, lower, "dir/b")
	crypted := filepath.Join(guest.TempDir(t), "gocryptfs")
	cryptServer, cipher := crypt(t)
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(archive, tarArchive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(t.TempDir(), "suite")
	build := exec.Command("go", "test", "-c", "-o", suite, "../test/inguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest has no C library
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := guest.Run(context.Background(), guest.UML, guest.Options{
		Shares: []guest.Share{
			serve(t, "memfs"), serve(t, "nullfs", null), serve(t, "rot13fs", rot13), serve(t, "hidefs", hide, "*.key"),
			serve(t, "livefs"), serve(t, "archivefs", archive), serve(t, "unionfs", upper, lower),
			serve(t, "gofusefs", loop), start(t, "gocryptfs", crypted, exec.Command(cryptServer, cipher, password, crypted)),
		},
		Files:   map[string]string{suite: "/run/inguest"},
		Timeout: 4 * time.Minute,
		Script: `set -e
			[ "$(cat /mnt/nullfs/from-host)" = from-host ]; echo back >/mnt/nullfs/from-guest
			mkdir /mnt/rot13fs/Secret; echo Hello >/mnt/rot13fs/Secret/file; [ "$(cat /mnt/rot13fs/Secret/file)" = Hello ]
			[ "$(ls /mnt/hidefs)" = visible ]; ! cat /mnt/hidefs/secret.key; ! echo x >/mnt/hidefs/new.key
			[ "$(cat /mnt/livefs/metrics/sched/goroutines-goroutines)" -gt 0 ]
			echo 70 >/mnt/livefs/set/gc-percent; [ "$(cat /mnt/livefs/set/gc-percent)" = 70 ]
			head -c 8 /mnt/archivefs/link | grep dir/file; ! echo x >/mnt/archivefs/new
			[ "$(echo $(ls /mnt/unionfs/dir))" = "a b" ]; echo new >/mnt/unionfs/dir/new; echo b2 >/mnt/unionfs/dir/b; rm /mnt/unionfs/dir/a
			mv /mnt/unionfs/dir /mnt/unionfs/moved; [ "$(cat /mnt/unionfs/moved/b)" = b2 ]
			mkdir /mnt/gofusefs/dir; echo loop >/mnt/gofusefs/dir/f; mv /mnt/gofusefs/dir/f /mnt/gofusefs/g; [ "$(cat /mnt/gofusefs/g)" = loop ]
			mkdir /mnt/gocryptfs/a; cd /mnt/gocryptfs/a; head -c 5000013 /dev/urandom >large; echo small >s; mv s small; : >empty
			sha256sum large small empty >sums; mv ../a ../dir; ln -s dir/small ../link; [ "$(cat ../link)" = small ]; cd /
			[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
			GOVIRTIOFS_GUEST_DIR=/mnt/gocryptfs /run/inguest -test.v -test.run 'TestConformance/(Rename.*|Link|OpenAppend|ReadWrite|Readdir|Symlink|Truncate)$'
			GOVIRTIOFS_GUEST_DIR=/mnt/memfs /run/inguest -test.v -test.timeout 200s -test.skip 'Conformance/FileFlags$'`,
	})
	if err != nil || r.Status != 0 {
		t.Fatalf("guest: status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	if !strings.Contains(r.Output, "PASS: TestConformance/Rename") {
		t.Errorf("the suite has not run:\n%s", tail(r.Output))
	}
	content(t, filepath.Join(null, "from-guest"), "back\n")
	content(t, filepath.Join(loop, "g"), "loop\n")
	content(t, filepath.Join(upper, "moved/new"), "new\n")
	content(t, filepath.Join(lower, "moved/b"), "b2\n")
	content(t, filepath.Join(rot13, "Frperg/svyr"), "Uryyb\n")
	plain := decrypted(t, cipher)
	check := exec.Command("sha256sum", "-c", "--strict", "sums")
	check.Dir = filepath.Join(plain, "dir")
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != 3 {
		t.Errorf("what the guest has encrypted: %v\n%s", err, out)
	}
	content(t, filepath.Join(plain, "link"), "small\n")
}

// tail is the end of a text.
func tail(s string) string { return s[max(0, len(s)-20000):] }
