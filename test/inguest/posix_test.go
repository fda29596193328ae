// Package inguest holds tests that run inside a guest, on a mounted share. They are
// built as one static program; the environment names the directory to work in:
// GOVIRTIOFS_GUEST_DIR. Without it they are skipped: on the host there is nothing to
// test with them.
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
			continue // wants locks of one process to exclude each other, which POSIX locks do not
		}
		t.Run(name, func(t *testing.T) { f(t, work(t)) })
	}
}
