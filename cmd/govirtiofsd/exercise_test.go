package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
)

// exercise does a bit of everything, to see that no layer of the sandbox is in the
// way. Errors that only say that the file system can't do something are fine.
func exercise(c *frontend.Client, readOnly bool) error {
	var errs []error
	step := func(what string, err error) {
		var errno syscall.Errno
		if err == nil || errors.As(err, &errno) && (errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.ENODATA || errno == unix.ENOTTY) {
			return
		}
		errs = append(errs, fmt.Errorf("%s: %w", what, err))
	}
	if readOnly {
		_, err := c.Mkdir(1, "d", 0o755)
		if !errors.Is(err, unix.EROFS) {
			step("mkdir", fmt.Errorf("got %v", err))
		}
		return errors.Join(errs...)
	}
	dir, err := c.Mkdir(1, "d", 0o755)
	step("mkdir", err)
	c.UID, c.GID = 1000, 1000
	f, err := c.Create(1, "f", unix.O_RDWR, 0o644)
	c.UID, c.GID = 0, 0
	step("create", err)
	node, fh := f.Entry.NodeID, f.Open.Fh
	_, err = c.Write(node, fh, 0, []byte("some data"))
	step("write", err)
	data, err := c.Read(node, fh, 0, 100)
	step("read", err)
	if string(data) != "some data" {
		step("read", fmt.Errorf("got %q", data))
	}
	step("fallocate", c.Fallocate(node, fh, 0, 1<<16, 0))
	step("flush", c.Flush(node, fh, 1))
	step("fsync", c.Fsync(node, fh))
	_, err = c.Lseek(node, fh, 0, unix.SEEK_DATA)
	step("lseek", err)
	_, err = c.Symlink(1, "l", "f")
	step("symlink", err)
	_, err = c.Link(node, dir.NodeID, "other")
	step("link", err)
	_, err = c.Mknod(1, "fifo", unix.S_IFIFO|0o600, 0)
	step("mknod", err)
	step("setxattr", c.Setxattr(node, "user.a", []byte("1"), false))
	_, err = c.Getxattr(node, "user.a", 10)
	step("getxattr", err)
	_, err = c.Listxattr(node, 100)
	step("listxattr", err)
	_, err = c.Ioctl(node, fh, unix.FS_IOC_GETFLAGS, nil, 8)
	step("ioctl", err)
	_, err = c.ReadAll(1, true)
	step("readdirplus", err)
	_, err = c.ReadAll(1, false)
	step("readdir", err)
	_, err = c.Statfs(1)
	step("statfs", err)
	step("rename", c.Rename(1, "f", dir.NodeID, "g", 0))
	step("unlink", c.Unlink(dir.NodeID, "g"))
	step("unlink", c.Unlink(dir.NodeID, "other"))
	step("rmdir", c.Rmdir(1, "d"))
	step("release", c.Release(node, fh))
	step("forget", c.Forget(node, 1))
	return errors.Join(errs...)
}

// Every sandbox with every filter lets the daemon work. A system call that is
// missing on the filter's list kills the daemon here.
func TestIntegrationServe(t *testing.T) {
	for _, box := range sandboxes() {
		for _, filter := range []string{"kill", "none"} {
			for _, more := range []string{"", "--readonly", "--xattr --locks=host --killpriv-v2 --writeback --cache=always"} {
				t.Run(box+"/"+filter+"/"+more, func(t *testing.T) {
					dir := tempDir(t)
					if err := os.Mkdir(dir+"/share", 0o755); err != nil {
						t.Fatal(err)
					}
					args := append([]string{"--socket-path", dir + "/s", "--shared-dir", dir + "/share", "--sandbox", box, "--seccomp", filter}, strings.Fields(more)...)
					d := startDaemon(t, nil, args...)
					d.waitLine(waitingLine)
					c := connect(t, dir+"/s")
					if err := exercise(c, more == "--readonly"); err != nil {
						t.Error(err)
					}
					c.Close()
					d.wantStatus(exitOK)
				})
			}
		}
	}
}
