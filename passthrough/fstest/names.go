package fstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func rename(e *env) {
	e.write("a", "a")
	e.write("b", "b")
	fd := e.open("b", unix.O_RDWR, 0)
	ino := e.lstat("a").Ino
	e.must(os.Rename(e.path("a"), e.path("b")))
	e.exists("a", false)
	e.content("b", "a")
	if got := e.lstat("b").Ino; got != ino {
		e.Errorf("the inode changed from %d to %d", ino, got)
	}
	// The file that was replaced lives on while it is open.
	buf := make([]byte, 10)
	if n, err := unix.Pread(fd, buf, 0); string(buf[:n]) != "b" || err != nil {
		e.Errorf("the replaced file holds %q, %v", buf[:n], err)
	}
	e.must(os.Mkdir(e.path("d"), 0o755))
	e.must(os.Rename(e.path("b"), e.path("d/c")))
	e.content("d/c", "a")
	e.want("rename to itself", unix.Rename(e.path("d/c"), e.path("d/c")), 0)
	e.must(os.Link(e.path("d/c"), e.path("other")))
	e.want("rename to another name of the file", unix.Rename(e.path("d/c"), e.path("other")), 0)
	e.exists("d/c", true)
	e.want("rename of nothing", unix.Rename(e.path("nothing"), e.path("x")), unix.ENOENT)
	e.want("file over a directory", unix.Rename(e.path("other"), e.path("d")), unix.EISDIR)
	e.want("directory over a file", unix.Rename(e.path("d"), e.path("other")), unix.ENOTDIR)
}

func renameDirectories(e *env) {
	e.must(os.MkdirAll(e.path("a/b/c"), 0o755))
	e.must(os.MkdirAll(e.path("full/x"), 0o755))
	e.must(os.Mkdir(e.path("empty"), 0o755))
	e.write("a/b/c/f", "deep")
	fd := e.open("a/b/c/f", unix.O_RDONLY, 0)
	e.want("into itself", unix.Rename(e.path("a"), e.path("a/b/z")), unix.EINVAL)
	err := unix.Rename(e.path("a"), e.path("full"))
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		e.Errorf("over a full directory: %v", err)
	}
	e.must(unix.Rename(e.path("a"), e.path("empty")))
	e.content("empty/b/c/f", "deep")
	e.must(os.Rename(e.path("empty/b"), e.path("full/moved")))
	e.content("full/moved/c/f", "deep")
	var st unix.Stat_t
	e.must(unix.Fstat(fd, &st))
	up, err := os.Stat(e.path("full/moved/.."))
	e.must(err)
	here, err := os.Stat(e.path("full"))
	e.must(err)
	if !os.SameFile(up, here) {
		e.Error("..is not the new parent")
	}
}

func renameNoReplace(e *env) {
	e.write("a", "a")
	e.write("b", "b")
	at := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, e.path(from), unix.AT_FDCWD, e.path(to), flags)
	}
	err := at("a", "b", unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) {
		e.Skip("no RENAME_NOREPLACE here")
	}
	e.want("over a file", err, unix.EEXIST)
	e.content("b", "b")
	e.want("to a new name", at("a", "c", unix.RENAME_NOREPLACE), 0)
	e.content("c", "a")
	e.want("both flags", at("b", "c", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), unix.EINVAL)
	e.want("unknown flag", at("b", "c", 1<<10), unix.EINVAL)
}

func renameExchange(e *env) {
	e.write("f", "file")
	e.must(os.Mkdir(e.path("d"), 0o755))
	e.write("d/x", "inside")
	at := func(from, to string) error {
		return unix.Renameat2(unix.AT_FDCWD, e.path(from), unix.AT_FDCWD, e.path(to), unix.RENAME_EXCHANGE)
	}
	err := at("f", "d")
	if errors.Is(err, unix.EINVAL) {
		e.Skip("no RENAME_EXCHANGE here")
	}
	e.want("exchange", err, 0)
	e.content("d", "file")
	e.content("f/x", "inside")
	e.want("exchange with nothing", at("d", "nothing"), unix.ENOENT)
	e.want("exchange back", at("f", "d"), 0)
	e.content("f", "file")
	e.content("d/x", "inside")
}

func link(e *env) {
	e.write("a", "data")
	e.must(os.Link(e.path("a"), e.path("b")))
	a, b := e.lstat("a"), e.lstat("b")
	if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		e.Errorf("inodes %d and %d, links %d and %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	fd := e.open("b", unix.O_WRONLY|unix.O_TRUNC, 0)
	_, err := unix.Write(fd, []byte("changed"))
	e.must(err)
	e.must(unix.Close(e.dup(fd)))
	e.content("a", "changed")
	e.must(os.Remove(e.path("a")))
	if n := e.lstat("b").Nlink; n != 1 {
		e.Errorf("%d links are left", n)
	}
	e.content("b", "changed")
	e.must(os.Mkdir(e.path("d"), 0o755))
	e.want("link to a directory", unix.Link(e.path("d"), e.path("e")), unix.EPERM)
	e.want("link over a file", unix.Link(e.path("b"), e.path("b")), unix.EEXIST)
	e.want("link to nothing", unix.Link(e.path("nothing"), e.path("x")), unix.ENOENT)
	e.must(os.Symlink("nowhere", e.path("s")))
	e.must(unix.Link(e.path("s"), e.path("s2")))
	if to, err := os.Readlink(e.path("s2")); to != "nowhere" || err != nil {
		e.Errorf("link to a symbolic link: %q, %v", to, err)
	}
}

// unlinkOpenFile uses a file that has no name any more.
func unlinkOpenFile(e *env) {
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	_, err := unix.Write(fd, []byte("before"))
	e.must(err)
	e.must(os.Remove(e.path("f")))
	_, err = unix.Pwrite(fd, []byte("after!!"), 0)
	e.want("write", err, 0)
	buf := make([]byte, 20)
	n, err := unix.Pread(fd, buf, 0)
	if string(buf[:n]) != "after!!" || err != nil {
		e.Errorf("read %q, %v", buf[:n], err)
	}
	e.want("truncate", unix.Ftruncate(fd, 3), 0)
	e.want("chmod", unix.Fchmod(fd, 0o600), 0)
	e.want("fsync", unix.Fsync(fd), 0)
	var st unix.Stat_t
	e.want("stat", unix.Fstat(fd, &st), 0)
	if st.Nlink != 0 || st.Size != 3 || st.Mode&0o777 != 0o600 {
		e.Errorf("links %d, size %d, mode %#o", st.Nlink, st.Size, st.Mode)
	}
	e.write("f", "another") // the name is free
	n, err = unix.Pread(fd, buf, 0)
	if string(buf[:n]) != "aft" || err != nil {
		e.Errorf("read %q, %v", buf[:n], err)
	}
	e.content("f", "another")
}

func removeErrors(e *env) {
	e.must(os.MkdirAll(e.path("d/sub"), 0o755))
	e.write("f", "")
	err := unix.Unlink(e.path("d"))
	if err != unix.EISDIR && err != unix.EPERM {
		e.Errorf("unlink of a directory: %v", err)
	}
	e.want("rmdir of a file", unix.Rmdir(e.path("f")), unix.ENOTDIR)
	err = unix.Rmdir(e.path("d"))
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		e.Errorf("rmdir of a full directory: %v", err)
	}
	e.want("unlink of nothing", unix.Unlink(e.path("x")), unix.ENOENT)
	e.want("rmdir of nothing", unix.Rmdir(e.path("x")), unix.ENOENT)
	e.want("rmdir", unix.Rmdir(e.path("d/sub")), 0)
	e.want("rmdir", unix.Rmdir(e.path("d")), 0)
	e.want("mkdir over a file", unix.Mkdir(e.path("f"), 0o755), unix.EEXIST)
}

// tmpfile makes a file without a name and gives it one.
func tmpfile(e *env) {
	fd, err := unix.Open(e.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if err == unix.EISDIR || errors.Is(err, unix.EINVAL) {
		e.Skip("no O_TMPFILE here")
	}
	e.has("O_TMPFILE", err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("nameless"))
	e.must(err)
	if list, err := os.ReadDir(e.dir); len(list) != 0 || err != nil {
		e.Errorf("the directory holds %v, %v", list, err)
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, e.path("f"), unix.AT_SYMLINK_FOLLOW)
	e.want("linkat", err, 0)
	e.must(unix.Close(e.dup(fd)))
	e.content("f", "nameless")
	e.mode("f", 0o640)
	excl, err := unix.Open(e.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
	e.must(err)
	defer unix.Close(excl)
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", excl), unix.AT_FDCWD, e.path("g"), unix.AT_SYMLINK_FOLLOW)
	e.want("linkat of a file that shall stay nameless", err, unix.ENOENT)
}

func symlink(e *env) {
	long := strings.Repeat("x", 4095)
	for name, target := range map[string]string{
		"short": "t", "absolute": "/etc/passwd", "up": "../../../..", "long": long, "odd": "\xff \n",
	} {
		err := os.Symlink(target, e.path(name))
		if name == "long" && err != nil {
			continue // not every file system keeps so much
		}
		e.want("symlink "+name, err, 0)
		if got, err := os.Readlink(e.path(name)); got != target || err != nil {
			e.Errorf("%s leads to %s, %v", name, short(got), err)
		}
		if st := e.lstat(name); st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Size != int64(len(target)) {
			e.Errorf("%s: mode %#o, size %d", name, st.Mode, st.Size)
		}
	}
	e.want("symlink over a name", unix.Symlink("x", e.path("short")), unix.EEXIST)
	e.want("symlink to nothing", unix.Symlink("", e.path("none")), unix.ENOENT)
	e.must(os.Symlink("b", e.path("a")))
	e.must(os.Symlink("a", e.path("b")))
	_, err := os.ReadFile(e.path("a"))
	e.want("circle", err, unix.ELOOP)
	_, err = unix.Readlink(e.dir, make([]byte, 10))
	e.want("readlink of a directory", err, unix.EINVAL)
	e.write("target", "through")
	e.must(os.Symlink("target", e.path("good")))
	if got, err := os.ReadFile(e.path("good")); string(got) != "through" || err != nil {
		e.Errorf("%q, %v", got, err)
	}
}

func mknod(e *env) {
	e.must(unix.Mknod(e.path("file"), unix.S_IFREG|0o640, 0))
	e.must(unix.Mknod(e.path("fifo"), unix.S_IFIFO|0o620, 0))
	kinds := map[string]uint32{"file": unix.S_IFREG, "fifo": unix.S_IFIFO, "sock": unix.S_IFSOCK}
	l, err := net.Listen("unix", shortPath(e, "sock"))
	e.must(err)
	defer l.Close()
	if os.Geteuid() == 0 {
		if err := unix.Mknod(e.path("chr"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err == nil {
			e.must(unix.Mknod(e.path("blk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
			kinds["chr"], kinds["blk"] = unix.S_IFCHR, unix.S_IFBLK
			if rdev := e.lstat("blk").Rdev; rdev != unix.Mkdev(259, 70000) {
				e.Errorf("device number %#x", rdev)
			}
		}
	}
	for name, kind := range kinds {
		if got := e.lstat(name).Mode & unix.S_IFMT; got != kind {
			e.Errorf("%s has kind %#o, want %#o", name, got, kind)
		}
	}
	e.want("over a name", unix.Mknod(e.path("file"), unix.S_IFREG|0o640, 0), unix.EEXIST)
	// Both ends of a FIFO are here: nothing of it reaches the other side.
	fd := e.open("fifo", unix.O_RDWR|unix.O_NONBLOCK, 0)
	_, err = unix.Write(fd, []byte("pipe"))
	e.must(err)
	buf := make([]byte, 10)
	if n, err := unix.Read(fd, buf); string(buf[:n]) != "pipe" || err != nil {
		e.Errorf("FIFO: %q, %v", buf[:n], err)
	}
	conn, err := net.Dial("unix", shortPath(e, "sock"))
	e.want("connect to a socket", err, 0)
	if err == nil {
		_ = conn.Close()
	}
}

// shortPath is a path that fits in a socket's address.
func shortPath(e *env, name string) string {
	fd, err := unix.Open(e.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	e.must(err)
	e.Cleanup(func() { _ = unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
}
