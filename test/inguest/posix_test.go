// Package inguest holds tests that run inside a guest, on a mounted share. They are
// built as one static program. The environment variable GOVIRTIOFS_GUEST_DIR names
// the directory to work in. Without it the tests are skipped: the host has no such
// mount.
package inguest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// work is a new directory on the share.
func work(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("GOVIRTIOFS_GUEST_DIR")
	if dir == "" {
		t.Skip("runs in a guest: GOVIRTIOFS_GUEST_DIR is not set")
	}
	d, err := os.MkdirTemp(dir, filepath.Base(t.Name())+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// TestPosix is the suite of another project's FUSE library.
func TestPosix(t *testing.T) {
	for name, f := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // POSIX locks of one process do not exclude each other
		}
		t.Run(name, func(t *testing.T) { f(t, work(t)) })
	}
}
