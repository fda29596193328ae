package fstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// tests are all subtests by name, in the order in which they run.
var tests = []struct {
	name string
	run  func(e *env)
}{
	{"CreateModes", createModes},
	{"CreateExclusive", createExclusive},
	{"CreateUmask", createUmask},
	{"CreateInSetgidDir", createInSetgidDir},
	{"OpenTruncate", openTruncate},
	{"OpenAppend", openAppend},
	{"OpenSpecial", openSpecial},
	{"LongNames", longNames},
	{"DeepPaths", deepPaths},
	{"OddNames", oddNames},
	{"Rename", rename},
	{"RenameDirectories", renameDirectories},
	{"RenameNoReplace", renameNoReplace},
	{"RenameExchange", renameExchange},
	{"Link", link},
	{"UnlinkOpenFile", unlinkOpenFile},
	{"RemoveErrors", removeErrors},
	{"Tmpfile", tmpfile},
	{"Symlink", symlink},
	{"Mknod", mknod},
	{"Chmod", chmod},
	{"Chown", chown},
	{"WriteKillsSetuid", writeKillsSetuid},
	{"KeepsSetID", keepsSetID},
	{"Permissions", permissions},
	{"IdmappedMount", idmappedMount},
	{"Utimens", utimens},
	{"TimesAdvance", timesAdvance},
	{"Truncate", truncate},
	{"Btime", btime},
	{"Statfs", statfs},
	{"FileFlags", fileFlags},
	{"ReadWrite", readWrite},
	{"Vectors", vectors},
	{"Sparse", sparse},
	{"Fallocate", fallocate},
	{"CopyFileRange", copyFileRange},
	{"Mmap", mmap},
	{"DirectIO", directIO},
	{"DirectIOMapped", directIOMapped},
	{"DirectIOTurnedOff", directIOTurnedOff},
	{"Sync", syncs},
	{"HostCoherence", hostCoherence},
	{"Readdir", readdir},
	{"ReaddirSeek", readdirSeek},
	{"ReaddirLarge", readdirLarge},
	{"Xattr", xattr},
	{"XattrSymlink", xattrSymlink},
	{"Flock", flock},
	{"OFDLocks", ofdLocks},
	{"PosixLocks", posixLocks},
	{"LockWait", lockWait},
	{"Storm", storm},
}

// Run tests the file system that dir is on. hostDir is the same directory as the host
// sees it, or "" where the host can't be seen. skip names subtests that do not hold for
// the way in which dir is mounted.
func Run(t *testing.T, dir, hostDir string, skip ...string) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(dir, "fstest-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(root) }()
	// The tests say themselves which bits a new file has.
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	if err := os.Chmod(root, 0o777); err != nil {
		t.Fatal(err)
	}
	if hostDir != "" {
		if hostDir, err = filepath.Abs(hostDir); err != nil {
			t.Fatal(err)
		}
	}
	// Paths are relative: other users need not be able to get here from /.
	t.Chdir(root)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if slices.Contains(skip, test.name) {
				t.Skip("does not hold for this mount")
			}
			e := &env{T: t, dir: test.name}
			e.must(os.Mkdir(e.dir, 0o755))
			e.must(os.Chmod(e.dir, 0o777)) // for other users
			if hostDir != "" {
				e.host = filepath.Join(hostDir, filepath.Base(root), test.name)
			}
			test.run(e)
		})
	}
}

// env is what a test works with.
type env struct {
	*testing.T
	dir  string // the test's own directory, relative to the working directory
	host string // the same on the host, or ""
}

// path is a name in the test's directory.
func (e *env) path(name string) string { return filepath.Join(e.dir, name) }

// must ends the test on an error that is not what the test is about.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// want checks for an errno; 0 is success.
func (e *env) want(what string, err error, want unix.Errno) {
	e.Helper()
	var got unix.Errno
	switch {
	case err == nil && want == 0, errors.As(err, &got) && got == want:
	default:
		e.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// has skips the test when err says that there is no such thing here.
func (e *env) has(what string, err error) {
	e.Helper()
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY} {
		if errors.Is(err, errno) {
			e.Skipf("no %s here: %v", what, err)
		}
	}
	e.must(err)
}

func (e *env) root() {
	e.Helper()
	if os.Geteuid() != 0 {
		e.Skip("needs root")
	}
}

// open opens a file until the test ends.
func (e *env) open(name string, flags int, mode uint32) int {
	e.Helper()
	fd, err := unix.Open(e.path(name), flags|unix.O_CLOEXEC, mode)
	if err != nil {
		e.Fatalf("open %s: %v", name, err)
	}
	e.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// write makes a file with content.
func (e *env) write(name, content string) {
	e.Helper()
	e.must(os.WriteFile(e.path(name), []byte(content), 0o644))
}

// content checks what a file holds, here and on the host.
func (e *env) content(name, want string) {
	e.Helper()
	for _, dir := range []string{e.dir, e.host} {
		if dir == "" {
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			e.Errorf("%s holds %s (%v), want %s", filepath.Join(dir, name), short(string(got)), err, short(want))
		}
	}
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%d bytes %q...", len(s), s[:40])
	}
	return fmt.Sprintf("%q", s)
}

// lstat is what lstat says.
func (e *env) lstat(name string) (st unix.Stat_t) {
	e.Helper()
	if err := unix.Lstat(e.path(name), &st); err != nil {
		e.Fatalf("lstat %s: %v", name, err)
	}
	return st
}

// mode checks permission bits and set-ID bits.
func (e *env) mode(name string, want uint32) {
	e.Helper()
	if got := e.lstat(name).Mode & 0o7777; got != want {
		e.Errorf("mode of %s is %#o, want %#o", name, got, want)
	}
}

// exists checks whether there is a name.
func (e *env) exists(name string, want bool) {
	e.Helper()
	if _, err := os.Lstat(e.path(name)); (err == nil) != want {
		e.Errorf("%s: %v, want it to exist: %v", name, err, want)
	}
}

// asUser runs f on a thread of its own with another user's identity.
func (e *env) asUser(uid, gid int, f func()) {
	e.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends here
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		}
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		}
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	e.must(<-done)
}
