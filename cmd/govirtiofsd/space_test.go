package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// eventually waits until f returns no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}

// TestIntegrationSpace: what the guest has seen and closed does not keep the host from
// getting space back after it deletes files, or from unmounting a file system.
func TestIntegrationSpace(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir, socket := tempDir(t), filepath.Join(tempDir(t), "s")
			mount := filepath.Join(dir, "m")
			if err := os.Mkdir(mount, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=16m"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(mount, unix.MNT_DETACH) }()
			free := func() uint64 {
				var st unix.Statfs_t
				if err := unix.Statfs(mount, &st); err != nil {
					t.Fatal(err)
				}
				return st.Bfree
			}
			before := free()
			for _, name := range []string{"file", "m/file"} {
				if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4<<20), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			d := startDaemon(t, nil, "--sandbox="+box, "--shared-dir="+dir, "--socket-path="+socket)
			d.waitLine(waitingLine)
			c := connect(t, socket)
			defer c.Close()
			m, err := c.Lookup(1, "m")
			if err != nil {
				t.Fatal(err)
			}
			readByte(t, c, 1)
			readByte(t, c, m.NodeID)
			pid := servingPID(t, d.cmd.Process.Pid)
			for _, name := range []string{"file", "m/file"} {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "deleted files", func() error {
				fds := fmt.Sprintf("/proc/%d/fd", pid)
				entries, err := os.ReadDir(fds)
				for _, e := range entries {
					if to, _ := os.Readlink(filepath.Join(fds, e.Name())); strings.HasSuffix(to, "file (deleted)") {
						return fmt.Errorf("%s is open", to)
					}
				}
				return err
			})
			eventually(t, "space", func() error { // the last close may still be under way
				if after := free(); after != before {
					return fmt.Errorf("%d blocks free, want %d as before", after, before)
				}
				return nil
			})
			eventually(t, "unmount", func() error { return unix.Unmount(mount, 0) })
			if _, err := c.Getattr(1); err != nil {
				t.Error(err)
			}
		})
	}
}

// readByte has the guest read one byte of the file in a directory, and close it again.
func readByte(t *testing.T, c *frontend.Client, dir uint64) {
	t.Helper()
	f, err := c.Lookup(dir, "file")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := c.Open(f.NodeID, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(f.NodeID, fh, 0, 1); err != nil || len(got) != 1 {
		t.Fatalf("read %d bytes: %v", len(got), err)
	}
	if err := c.Release(f.NodeID, fh); err != nil {
		t.Fatal(err)
	}
}
