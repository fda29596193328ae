package differential

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// longName is as long as a name can be.
var longName = strings.Repeat("n", 255)

// treeTime is the mtime of all files.
var treeTime = time.Date(2020, 2, 29, 12, 0, 0, 123456789, time.UTC)

// makeTrees makes two equal trees, with another file system mounted in each.
func makeTrees(t *testing.T) [2]string {
	t.Helper()
	tmp := guest.TempDir(t)
	var dirs [2]string
	for i, name := range []string{"a", "b"} {
		dirs[i] = filepath.Join(tmp, name, "share")
		if err := makeTree(dirs[i]); err != nil {
			t.Fatal(err)
		}
		mount := dirs[i] + "/mnt"
		if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m,mode=0755"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
		if err := os.WriteFile(mount+"/inside", []byte("another file system"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

// makeTree makes files of every kind.
func makeTree(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	file := func(name, data string, mode os.FileMode) error {
		return errors.Join(os.WriteFile(at(name), []byte(data), 0o600), os.Chmod(at(name), mode))
	}
	folder := func(name string, mode os.FileMode) error {
		return errors.Join(os.MkdirAll(at(name), 0o755), os.Chmod(at(name), mode))
	}
	err := errors.Join(
		os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755),
		file("file", "some data\n", 0o644), file("empty", "", 0o644), file("exec", "#!/bin/sh\n", 0o755),
		file("setuid", "x", 0o755|os.ModeSetuid|os.ModeSetgid), file("private", "of a user", 0o600),
		file("big", strings.Repeat("0123456789abcdef", 20000), 0o644),
		file("data", "to be changed", 0o666), file(longName, "", 0o644), file("\xff\xfe", "", 0o644),
		folder("folder/deep/deeper", 0o755), folder("sticky", 0o777|os.ModeSticky), folder("sgid", 0o775|os.ModeSetgid),
		folder("home", 0o700), folder("closed", 0), folder("open", 0o777), folder("mnt", 0o755),
		os.Symlink("file", at("link")), os.Symlink("/nowhere/at/all", at("dangling")), os.Symlink(strings.Repeat("y", 4000), at("long")),
		os.Link(at("file"), at("folder/other")),
		unix.Mkfifo(at("fifo"), 0o640), unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(at("loop"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))),
		os.Chown(at("private"), 1000, 1000), os.Chown(at("home"), 1000, 1000), os.Chown(at("sgid"), 0, 2000),
		unix.Setxattr(at("file"), "user.one", []byte("1"), 0),
	)
	for i := range 40 {
		err = errors.Join(err, file(fmt.Sprintf("folder/f%02d", i), "", 0o644))
	}
	if err != nil {
		return err
	}
	return errors.Join(sparse(at("sparse")), setTimes(dir))
}

// sparse makes a file with a hole of 1 MiB in front of a page.
func sparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{'s'}, 4096), 1<<20); err != nil {
		return err
	}
	return f.Sync() // this settles SEEK_DATA and the number of blocks
}

// setTimes gives all files the same time.
func setTimes(dir string) error {
	ts := []unix.Timespec{unix.NsecToTimespec(treeTime.UnixNano()), unix.NsecToTimespec(treeTime.UnixNano())}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}
