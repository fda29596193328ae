package fstest

import (
	"encoding/binary"
	"errors"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func chmod(e *env) {
	e.write("f", "x")
	e.must(os.Mkdir(e.path("d"), 0o755))
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o1777, 0o644} {
		e.must(unix.Chmod(e.path("f"), mode))
		e.mode("f", mode)
		e.must(unix.Chmod(e.path("d"), mode|0o700))
		e.mode("d", mode|0o700)
	}
	fd := e.open("f", unix.O_RDONLY, 0)
	e.must(unix.Fchmod(fd, 0o600))
	e.mode("f", 0o600)
	if os.Geteuid() == 0 {
		e.asUser(1000, 1000, func() {
			e.want("chmod of another user's file", unix.Chmod(e.path("f"), 0o777), unix.EPERM)
		})
	}
}

func chown(e *env) {
	e.root()
	e.write("f", "x")
	e.must(os.Symlink("f", e.path("l")))
	owner := func(name string, uid, gid uint32) {
		e.Helper()
		if st := e.lstat(name); st.Uid != uid || st.Gid != gid {
			e.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
	e.must(unix.Chown(e.path("f"), 1000, 2000))
	owner("f", 1000, 2000)
	e.must(unix.Chown(e.path("f"), -1, 2001))
	owner("f", 1000, 2001)
	e.must(unix.Lchown(e.path("l"), 7, 8))
	owner("l", 7, 8)
	owner("f", 1000, 2001)
	e.must(unix.Chmod(e.path("f"), 0o6755))
	e.asUser(1000, 2001, func() {
		e.want("chown by a user", unix.Chown(e.path("f"), 0, -1), unix.EPERM)
		e.want("chown to itself", unix.Chown(e.path("f"), 1000, 2001), 0)
	})
	e.mode("f", 0o755)
}

// writeKillsSetuid changes setuid files as somebody without privilege.
func writeKillsSetuid(e *env) {
	e.root()
	e.write("f", "0123456789")
	e.must(unix.Chown(e.path("f"), 1000, 1000))
	fd := e.open("f", unix.O_RDWR, 0)
	changes := map[string]func() error{
		"write":     func() error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err },
		"truncate":  func() error { return unix.Truncate(e.path("f"), 5) },
		"ftruncate": func() error { return unix.Ftruncate(fd, 6) },
		"open": func() error {
			fd, err := unix.Open(e.path("f"), unix.O_WRONLY|unix.O_TRUNC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		},
		"fallocate": func() error {
			if err := unix.Fallocate(fd, 0, 0, 4096); err != unix.EOPNOTSUPP {
				return err
			}
			return unix.Ftruncate(fd, 7)
		},
	}
	for what, change := range changes {
		e.must(unix.Chmod(e.path("f"), 0o6775))
		e.asUser(1000, 1000, func() { e.want(what, change(), 0) })
		e.must(unix.Close(e.dup(fd)))
		if mode := e.lstat("f").Mode & 0o7777; mode != 0o775 {
			e.Errorf("%s by its owner: mode %#o, want 0775", what, mode)
		}
	}
}

// keepsSetID changes files as users who may keep set-ID bits: root all of them, others a
// set-group-ID bit without group execute (xfstests generic/193).
func keepsSetID(e *env) {
	e.root()
	e.write("f", "0123456789")
	e.must(unix.Chown(e.path("f"), 1000, 1000))
	open := func(flags int, f func(fd int) error) error {
		fd, err := unix.Open(e.path("f"), flags, 0)
		if err == nil {
			err = errors.Join(f(fd), unix.Close(fd))
		}
		return err
	}
	changes := map[string]func() error{
		"open":     func() error { return open(unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil }) },
		"truncate": func() error { return unix.Truncate(e.path("f"), 5) },
		"write": func() error {
			return open(unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		},
		"rewrite": func() error {
			return open(unix.O_WRONLY|unix.O_TRUNC, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		},
	}
	for what, change := range changes {
		for _, c := range []struct {
			uid        int
			mode, want uint32
		}{{0, 0o4755, 0o4755}, {0, 0o2755, 0o2755}, {0, 0o6744, 0o6744}, {1000, 0o2744, 0o2744}, {1000, 0o6744, 0o2744}, {1000, 0o6755, 0o755}} {
			e.must(unix.Chmod(e.path("f"), c.mode))
			e.asUser(c.uid, c.uid, func() { e.want(what, change(), 0) })
			if mode := e.lstat("f").Mode & 0o7777; mode != c.want {
				e.Errorf("%s by %d: %#o became %#o, want %#o", what, c.uid, c.mode, mode, c.want)
			}
		}
	}
}

func permissions(e *env) {
	e.root()
	e.write("f", "secret")
	e.must(unix.Chown(e.path("f"), 1000, 1000))
	e.must(unix.Chmod(e.path("f"), 0o640))
	try := func(flags int) error {
		fd, err := unix.Open(e.path("f"), flags, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	e.asUser(1000, 1000, func() { e.want("owner writes", try(unix.O_RDWR), 0) })
	e.asUser(1001, 1000, func() {
		e.want("group reads", try(unix.O_RDONLY), 0)
		e.want("group writes", try(unix.O_WRONLY), unix.EACCES)
	})
	e.asUser(1001, 1001, func() {
		e.want("other reads", try(unix.O_RDONLY), unix.EACCES)
		e.want("access", unix.Access(e.path("f"), unix.R_OK), unix.EACCES)
	})
	e.must(os.Mkdir(e.path("sticky"), 0o777))
	e.must(unix.Chmod(e.path("sticky"), 0o1777))
	e.write("sticky/f", "")
	e.asUser(1001, 1001, func() {
		e.want("unlink in a sticky directory", unix.Unlink(e.path("sticky/f")), unix.EPERM)
		err := unix.Mkdir(e.path("sticky/mine"), 0o755)
		e.want("mkdir in a sticky directory", err, 0)
		e.want("rmdir of one's own", unix.Rmdir(e.path("sticky/mine")), 0)
	})
	e.must(unix.Chmod(e.path("sticky"), 0o755))
	e.asUser(1001, 1001, func() {
		e.want("create without permission", unix.Mkdir(e.path("sticky/no"), 0o755), unix.EACCES)
		e.want("unlink without permission", unix.Unlink(e.path("sticky/f")), unix.EACCES)
	})
}

func utimens(e *env) {
	e.write("f", "x")
	e.must(os.Symlink("f", e.path("l")))
	set := func(name string, a, m unix.Timespec, flags int) {
		e.Helper()
		e.must(unix.UtimesNanoAt(unix.AT_FDCWD, e.path(name), []unix.Timespec{a, m}, flags))
	}
	check := func(name string, a, m unix.Timespec) {
		e.Helper()
		if st := e.lstat(name); st.Atim != a || st.Mtim != m {
			e.Errorf("%s: times %v and %v, want %v and %v", name, st.Atim, st.Mtim, a, m)
		}
	}
	a, m := unix.Timespec{Sec: 1000, Nsec: 123456789}, unix.Timespec{Sec: 2000000000, Nsec: 987654321}
	set("f", a, m, 0)
	check("f", a, m)
	early := unix.Timespec{Sec: -5, Nsec: 1}
	set("f", early, unix.Timespec{Nsec: unix.UTIME_OMIT}, 0)
	check("f", early, m)
	set("l", a, m, unix.AT_SYMLINK_NOFOLLOW)
	check("l", a, m)
	check("f", early, m)
	set("f", unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}, 0)
	now := e.lstat("f").Mtim
	if d := time.Since(time.Unix(now.Unix())); d < -time.Minute || d > time.Minute {
		e.Errorf("now is %v off", d)
	}
	if st := e.lstat("f"); st.Atim != early {
		e.Errorf("the access time changed to %v", st.Atim)
	}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, e.path("f"), []unix.Timespec{{Nsec: 1 << 30}, {}}, 0)
	e.want("too many nanoseconds", err, unix.EINVAL)
}

// timesAdvance checks which times a change moves.
func timesAdvance(e *env) {
	e.write("f", "x")
	past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	reset := func(name string) unix.Stat_t {
		e.must(unix.UtimesNanoAt(unix.AT_FDCWD, e.path(name), past, 0))
		return e.lstat(name)
	}
	before := reset("f")
	time.Sleep(20 * time.Millisecond)
	fd := e.open("f", unix.O_WRONLY, 0)
	_, err := unix.Write(fd, []byte("y"))
	e.must(err)
	e.must(unix.Close(e.dup(fd)))
	st := e.lstat("f")
	if st.Mtim == before.Mtim || st.Ctim == before.Ctim {
		e.Errorf("a write left mtime %v and ctime %v", st.Mtim, st.Ctim)
	}
	before = reset("f")
	time.Sleep(20 * time.Millisecond)
	e.must(unix.Chmod(e.path("f"), 0o600))
	if st = e.lstat("f"); st.Mtim != before.Mtim || st.Ctim == before.Ctim {
		e.Errorf("chmod: mtime %v, was %v; ctime %v, was %v", st.Mtim, before.Mtim, st.Ctim, before.Ctim)
	}
	e.must(os.Mkdir(e.path("d"), 0o755))
	before = reset("d")
	time.Sleep(20 * time.Millisecond)
	e.write("d/new", "")
	if st = e.lstat("d"); st.Mtim == before.Mtim {
		e.Error("a new name left its directory's mtime")
	}
}

func truncate(e *env) {
	e.write("f", "0123456789")
	e.must(unix.Truncate(e.path("f"), 4))
	e.content("f", "0123")
	e.must(unix.Truncate(e.path("f"), 8))
	e.content("f", "0123\x00\x00\x00\x00")
	fd := e.open("f", unix.O_RDWR, 0)
	e.must(unix.Ftruncate(fd, 2))
	e.content("f", "01")
	e.must(unix.Ftruncate(fd, 1<<40))
	if st := e.lstat("f"); st.Size != 1<<40 || st.Blocks > 100 {
		e.Errorf("size %d in %d blocks", st.Size, st.Blocks)
	}
	e.want("negative", unix.Ftruncate(fd, -1), unix.EINVAL)
	e.want("directory", unix.Truncate(e.dir, 0), unix.EISDIR)
	ro := e.open("f", unix.O_RDONLY, 0)
	e.want("read-only descriptor", unix.Ftruncate(ro, 0), unix.EINVAL)
	// Data behind the new end is gone, not hidden.
	e.must(unix.Ftruncate(fd, 0))
	_, err := unix.Pwrite(fd, []byte("abcdefgh"), 0)
	e.must(err)
	e.must(unix.Ftruncate(fd, 3))
	_, err = unix.Pwrite(fd, []byte("z"), 6)
	e.must(err)
	e.must(unix.Close(e.dup(fd)))
	e.content("f", "abc\x00\x00\x00z")
}

func btime(e *env) {
	start := time.Now()
	e.write("f", "x")
	var st unix.Statx_t
	e.must(unix.Statx(unix.AT_FDCWD, e.path("f"), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	if st.Mask&unix.STATX_BTIME == 0 {
		e.Skip("no time of birth here")
	}
	if d := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)).Sub(start); d < -time.Minute || d > time.Minute {
		e.Errorf("born %v after it was made", d)
	}
	e.must(unix.UtimesNanoAt(unix.AT_FDCWD, e.path("f"), []unix.Timespec{{}, {}}, 0))
	born := st.Btime
	e.must(unix.Statx(unix.AT_FDCWD, e.path("f"), unix.AT_STATX_FORCE_SYNC, unix.STATX_BTIME, &st))
	if st.Btime != born {
		e.Errorf("the time of birth changed from %v to %v", born, st.Btime)
	}
}

func statfs(e *env) {
	var st unix.Statfs_t
	e.must(unix.Statfs(e.dir, &st))
	if st.Bsize <= 0 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Namelen < 255 {
		e.Errorf("%+v", st)
	}
	e.write("f", "x")
	fd := e.open("f", unix.O_RDONLY, 0)
	var st2 unix.Statfs_t
	e.must(unix.Fstatfs(fd, &st2))
	if st2.Blocks != st.Blocks || st2.Type != st.Type {
		e.Errorf("%+v by descriptor, %+v by path", st2, st)
	}
	if e.host != "" {
		e.must(unix.Statfs(e.host, &st2))
		if st2.Blocks != st.Blocks {
			e.Errorf("%d blocks, the host has %d", st.Blocks, st2.Blocks)
		}
	}
}

// fileFlags uses the flags of chattr and lsattr.
func fileFlags(e *env) {
	e.root()
	const nodump = 0x40 // FS_NODUMP_FL
	e.write("f", "x")
	e.must(os.Mkdir(e.path("d"), 0o755))
	for _, name := range []string{"f", "d"} {
		fd := e.open(name, unix.O_RDONLY, 0)
		flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
		e.has("FS_IOC_GETFLAGS", err)
		e.has("FS_IOC_SETFLAGS", unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags^nodump))
		got, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
		e.must(err)
		if uint32(got)&nodump == uint32(flags)&nodump {
			e.Errorf("%s: flags %#x, were %#x", name, got, flags)
		}
		var x [28]byte // struct fsxattr
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x801c581f, uintptr(unsafe.Pointer(&x)))
		if errno != 0 && errno != unix.ENOTTY && errno != unix.EOPNOTSUPP {
			e.Errorf("%s: FS_IOC_FSGETXATTR: %v", name, errno)
		}
		const xflagNodump = 0x80
		if has := binary.NativeEndian.Uint32(x[:])&xflagNodump != 0; errno == 0 && has != (got&nodump != 0) {
			e.Errorf("%s: fsxattr %x, flags %#x", name, x, got)
		}
	}
	fd := e.open("f", unix.O_RDONLY, 0)
	_, err := unix.IoctlGetInt(fd, unix.TCGETS)
	e.want("ioctl of a terminal", err, unix.ENOTTY)
}
