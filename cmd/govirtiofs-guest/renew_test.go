package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationRenewed: a daemon that knows nothing of the session takes the place of the one that does. The mount
// stays. What is open is stale, paths lead to the files that are there now, also where the guest could keep what it
// knew for a day, and a request that waited ends.
func TestIntegrationRenewed(t *testing.T) {
	for _, how := range []string{"ended", "killed"} {
		t.Run(how, func(t *testing.T) { testRenewed(t, how == "killed") })
	}
}

func testRenewed(t *testing.T, killed bool) {
	args := []string{"--cache=always", "--locks=host", "--recovery=never"}
	h := newHost(t, args...)
	for name, text := range map[string]string{"file": "old\n", "dir/inner": "old\n"} {
		path := filepath.Join(h.share, name)
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := startInner(t, "shell", fmt.Sprintf(`cd %s; exec 2>&1
%s mount -o token=%s unix:v_1024 mnt
cat mnt/file mnt/dir/inner
stat -c %%n mnt/dir/* mnt/file >/dev/null
exec 5>>mnt/file 6<mnt/dir/inner 7>>mnt/lock
flock 7
flock mnt/lock true & waiter=$!
echo ready
read x || true
cat mnt/dir/inner mnt/file
for i in $(seq 1000); do [ $(stat -c %%s mnt/file) = 10 ] && [ $(stat -c %%s mnt/dir/inner) = 10 ] && break; sleep 0.02; done
stat -c 'size %%s' mnt/file mnt/dir/inner
wait $waiter || true
echo waiter ended
echo more >&5 || echo stale to write
cat <&6 || echo stale to read
mkdir mnt/new; echo text >mnt/new/made; mv mnt/new/made mnt/moved; cat mnt/moved; rm -r mnt/new
exec 5>&- 6>&- 7>&-
umount mnt
echo unmounted
`, h.dir, guestProgram, h.token))
	for p.line() != "ready" {
	}
	if killed {
		_ = h.cmd.Process.Signal(unix.SIGKILL)
		_ = h.cmd.Wait()
	} else {
		h.stop()
	}
	for _, name := range []string{"file", "dir/inner"} { // other files, under the same names
		path := filepath.Join(h.share, name)
		if err := os.WriteFile(path+"~", []byte("other one\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	h.start(args...)
	said := p.end()
	for _, want := range []string{"other one\nother one\n", "size 10\nsize 10\n", "waiter ended", "stale to write", "stale to read", "text\n", "unmounted"} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in:\n%s\n%s", want, said, h.log)
		}
	}
	if b, err := os.ReadFile(filepath.Join(h.share, "file")); err != nil || string(b) != "other one\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	h.wait("unmounted")
	h.stop()
}

// TestIntegrationDropNames: what has been mounted over the share, or is there in its place, is not touched.
func TestIntegrationDropNames(t *testing.T) {
	guest.NeedRoot(t)
	if said := startInner(t, "drop", t.TempDir()).end(); said != "" {
		t.Error(said)
	}
}

// dropElsewhere drops names where there is a read-only mount of a file system that can be written elsewhere.
func dropElsewhere(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.Mkdir(a, 0o777), os.Mkdir(b, 0o777)); err != nil {
		return err
	}
	err := errors.Join(unix.Mount("none", a, "tmpfs", 0, ""), unix.Mount(a, b, "", unix.MS_BIND, ""),
		unix.Mount("", b, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	if err != nil {
		return err
	}
	if dropNames(b) == nil {
		return errors.New("a tmpfs is remounted")
	}
	return os.WriteFile(filepath.Join(a, "file"), nil, 0o666)
}
