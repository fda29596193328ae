package examples_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/mounttest"
)

// TestMemfsOptions: memfs with requests by io_uring, where the kernel gives them so, and without extended attributes.
func TestMemfsOptions(t *testing.T) {
	dir := mounttest.Program(t, program("memfs"), "--io-uring", "--xattr=false")
	write(t, dir, "a/b", "c")
	content(t, filepath.Join(dir, "a/b"), "b")
	for range 2 { // what the client has been told, and what it knows then
		if _, err := unix.Getxattr(filepath.Join(dir, "c"), "user.x", nil); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("get: %v", err)
		}
		if err := unix.Setxattr(filepath.Join(dir, "c"), "user.x", nil, 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("set: %v", err)
		}
	}
}

// TestIOUringForMounts: a guest's requests have nothing to do with io_uring.
func TestIOUringForMounts(t *testing.T) {
	out, err := exec.Command(program("memfs"), "--io-uring", "--socket-path="+filepath.Join(t.TempDir(), "s")).CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 2 || !strings.Contains(string(out), "--io-uring is for --mount") {
		t.Errorf("%v\n%s", err, out)
	}
}
