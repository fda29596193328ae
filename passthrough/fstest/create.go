package fstest

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// createModes makes files that their owner may not write to, or not even read, and
// writes to them through the descriptor that made them. Git does it with objects.
func createModes(e *env) {
	for _, mode := range []uint32{0o444, 0o000, 0o400, 0o200, 0o644, 0o755} {
		for _, user := range []int{0, 1000} {
			if user != 0 && os.Geteuid() != 0 {
				continue
			}
			name := fmt.Sprintf("%04o-%d", mode, user)
			body := func() {
				fd, err := unix.Open(e.path(name), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
				if err != nil {
					e.Errorf("create with mode %#o as %d: %v", mode, user, err)
					return
				}
				n, err := unix.Write(fd, []byte("data"))
				if n != 4 || err != nil {
					e.Errorf("write to a file of mode %#o as %d: %d, %v", mode, user, n, err)
				}
				buf := make([]byte, 10)
				if n, err := unix.Pread(fd, buf, 0); string(buf[:n]) != "data" || err != nil {
					e.Errorf("read from a file of mode %#o as %d: %q, %v", mode, user, buf[:n], err)
				}
				if err := unix.Close(fd); err != nil {
					e.Error(err)
				}
			}
			if user == 0 {
				body()
			} else {
				e.asUser(user, user, body)
			}
			e.mode(name, mode)
			st := e.lstat(name)
			if os.Geteuid() == 0 && (int(st.Uid) != user || int(st.Gid) != user) {
				e.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
			}
			e.must(os.Remove(e.path(name)))
		}
	}
}

func createExclusive(e *env) {
	e.open("a", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	_, err := unix.Open(e.path("a"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	e.want("exclusive create of a file that is there", err, unix.EEXIST)
	e.must(os.Symlink("nowhere", e.path("link")))
	_, err = unix.Open(e.path("link"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	e.want("exclusive create of a dangling link", err, unix.EEXIST)
	e.exists("nowhere", false)
	e.open("link", unix.O_CREAT|unix.O_WRONLY, 0o644)
	e.exists("nowhere", true)
	_, err = unix.Open(e.path("missing/a"), unix.O_CREAT|unix.O_WRONLY, 0o644)
	e.want("create in a missing directory", err, unix.ENOENT)
	_, err = unix.Open(e.path("a/b"), unix.O_CREAT|unix.O_WRONLY, 0o644)
	e.want("create in a file", err, unix.ENOTDIR)
}

func createUmask(e *env) {
	defer unix.Umask(unix.Umask(0o027))
	e.open("file", unix.O_CREAT|unix.O_WRONLY, 0o777)
	e.must(unix.Mkdir(e.path("dir"), 0o777))
	e.must(unix.Mknod(e.path("fifo"), unix.S_IFIFO|0o666, 0))
	e.mode("file", 0o750)
	e.mode("dir", 0o750)
	e.mode("fifo", 0o640)
}

// createInSetgidDir checks that files get their directory's group.
func createInSetgidDir(e *env) {
	e.root()
	e.must(os.Mkdir(e.path("d"), 0o777))
	e.must(os.Chown(e.path("d"), 0, 4321))
	e.must(unix.Chmod(e.path("d"), 0o2777))
	e.asUser(1000, 1000, func() {
		fd, err := unix.Open(e.path("d/f"), unix.O_CREAT|unix.O_WRONLY, 0o644)
		e.want("create", err, 0)
		_ = unix.Close(fd)
		e.want("mkdir", unix.Mkdir(e.path("d/sub"), 0o755), 0)
	})
	for _, name := range []string{"d/f", "d/sub"} {
		if st := e.lstat(name); st.Uid != 1000 || st.Gid != 4321 {
			e.Errorf("%s belongs to %d:%d, want 1000:4321", name, st.Uid, st.Gid)
		}
	}
	e.mode("d/sub", 0o2755)
}

func openTruncate(e *env) {
	e.write("f", "0123456789")
	fd := e.open("f", unix.O_WRONLY|unix.O_TRUNC, 0)
	e.content("f", "")
	_, err := unix.Write(fd, []byte("new"))
	e.must(err)
	e.must(unix.Close(e.dup(fd)))
	e.content("f", "new")
	e.open("f", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o644)
	e.content("f", "")
}

// dup is another descriptor of an open file; closing it flushes.
func (e *env) dup(fd int) int {
	e.Helper()
	n, err := unix.Dup(fd)
	e.must(err)
	return n
}

func openAppend(e *env) {
	a := e.open("f", unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o644)
	b := e.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
	want := ""
	for i := range 20 {
		for _, fd := range []int{a, b} {
			s := fmt.Sprintf("%d,", i)
			_, err := unix.Write(fd, []byte(s))
			e.must(err)
			want += s
		}
	}
	e.must(unix.Close(e.dup(a)))
	e.must(unix.Close(e.dup(b)))
	e.content("f", want)
	// A process may change its mind.
	_, err := unix.FcntlInt(uintptr(a), unix.F_SETFL, 0)
	e.must(err)
	_, err = unix.Pwrite(a, []byte("X"), 0)
	e.must(err)
	e.must(unix.Close(e.dup(a)))
	e.content("f", "X"+want[1:])
}

func openSpecial(e *env) {
	e.must(os.Mkdir(e.path("d"), 0o755))
	e.write("f", "")
	e.must(os.Symlink("f", e.path("l")))
	for _, c := range []struct {
		name  string
		flags int
		want  unix.Errno
	}{
		{"d", unix.O_WRONLY, unix.EISDIR},
		{"f", unix.O_DIRECTORY, unix.ENOTDIR},
		{"l", unix.O_NOFOLLOW, unix.ELOOP},
		{"l", unix.O_DIRECTORY, unix.ENOTDIR},
		{"f/", unix.O_RDONLY, unix.ENOTDIR},
		{"missing", unix.O_RDONLY, unix.ENOENT},
	} {
		_, err := unix.Open(e.dir+"/"+c.name, c.flags, 0)
		e.want("open of "+c.name, err, c.want)
	}
	fd := e.open("f", unix.O_RDONLY, 0)
	_, err := unix.Write(fd, []byte("x"))
	e.want("write to a file opened for reading", err, unix.EBADF)
	fd = e.open("f", unix.O_WRONLY, 0)
	_, err = unix.Read(fd, make([]byte, 1))
	e.want("read from a file opened for writing", err, unix.EBADF)
}

func longNames(e *env) {
	longest := strings.Repeat("n", 255)
	e.write(longest, "x")
	e.content(longest, "x")
	utf8 := strings.Repeat("ä", 127)
	e.write(utf8, "y")
	e.must(os.Rename(e.path(utf8), e.path(longest)))
	e.content(longest, "y")
	for what, err := range map[string]error{
		"create":  os.WriteFile(e.path(longest+"n"), nil, 0o644),
		"mkdir":   os.Mkdir(e.path(longest+"n"), 0o755),
		"symlink": os.Symlink("x", e.path(longest+"n")),
		"link":    os.Link(e.path(longest), e.path(longest+"n")),
		"rename":  os.Rename(e.path(longest), e.path(longest+"n")),
	} {
		e.want(what+" of a name that is too long", err, unix.ENAMETOOLONG)
	}
}

// deepPaths makes directories one in another and comes back up.
func deepPaths(e *env) {
	dir := e.dir
	const depth = 60
	for i := range depth {
		dir += fmt.Sprintf("/%02d-%s", i, strings.Repeat("d", 20))
		e.must(os.Mkdir(dir, 0o755))
	}
	e.must(os.WriteFile(dir+"/f", []byte("deep"), 0o644))
	got, err := os.ReadFile(dir + "/f")
	if string(got) != "deep" || err != nil {
		e.Errorf("%q, %v", got, err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	e.must(err)
	for range depth {
		up, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.must(err)
		e.must(unix.Close(fd))
		fd = up
	}
	defer unix.Close(fd)
	var a, b unix.Stat_t
	e.must(unix.Fstat(fd, &a))
	e.must(unix.Stat(e.dir, &b))
	if a.Ino != b.Ino {
		e.Errorf("%d times up leads to inode %d, want %d", depth, a.Ino, b.Ino)
	}
}

// oddNames uses bytes that are not text.
func oddNames(e *env) {
	for _, name := range []string{"\xff\xfe", "new\nline", " ", "-rf", "...", "a b", "\x01", "*?", `back\slash`} {
		e.write(name, name)
		e.content(name, name)
		list, err := os.ReadDir(e.dir)
		if err != nil || len(list) != 1 || list[0].Name() != name {
			e.Errorf("listing of %q: %v, %v", name, list, err)
		}
		e.must(os.Remove(e.path(name)))
	}
}
