package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

func TestLandlockRules(t *testing.T) {
	for _, test := range []struct {
		version, errata int
		has, hasNot     uint64
		net, scoped     uint64
	}{
		{2, 0, unix.LANDLOCK_ACCESS_FS_REFER, unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 0},
		{3, 0, unix.LANDLOCK_ACCESS_FS_TRUNCATE, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 0},
		{4, 0, unix.LANDLOCK_ACCESS_FS_TRUNCATE, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 3, 0},
		{5, 0, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 3, 0},
		{6, 0, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 3, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET},
		{7, 2, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 3, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
	} {
		a := landlockRules(test.version, test.errata)
		if a.Handled_access_fs&test.has != test.has || a.Handled_access_fs&test.hasNot != 0 ||
			a.Handled_access_net != test.net || a.Scoped != test.scoped {
			t.Errorf("version %d: %+v", test.version, a)
		}
	}
}

// helpLandlock enforces the rules for DIR/share, with DIR/own for a file of the
// process's own, and does things inside and outside: on a thread that was there before,
// or with "new", on one that was started since. No other layer is there.
func helpLandlock(arg string) error {
	dir, mode, _ := strings.Cut(arg, ":")
	out := make(chan string, 64)
	work := func() { lockedWork(dir, out); close(out) }
	old := func() {}
	if !strings.Contains(mode, "new") {
		old = manyThreads(1, work)
	}
	share, err := Open(filepath.Join(dir, "share"))
	if err != nil {
		return err
	}
	own, err := unix.Open(filepath.Join(dir, "own"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if mode == "often" {
		return landlockOften(share.Root)
	}
	if err := Landlock(LandlockOptions{Share: share.Root, ReadOnly: strings.Contains(mode, "ro"), Remove: []int{own}}); err != nil {
		return err
	}
	if strings.Contains(mode, "new") {
		go func() { runtime.LockOSThread(); work() }()
	} else {
		go old()
	}
	for line := range out {
		fmt.Println(line)
	}
	return nil
}

// landlockOften lays rules on rules until there is no place.
func landlockOften(share int) error {
	for n := range maxLayers + 1 {
		if err := Landlock(LandlockOptions{Share: share}); err != nil {
			fmt.Println("layers", n, errors.Is(err, ErrNoLandlock))
			return nil
		}
	}
	return nil
}

// lockedWork tries what a daemon does, and what one that was taken over would like.
func lockedWork(dir string, out chan<- string) {
	in, outside, own := filepath.Join(dir, "share"), filepath.Join(dir, "outside"), filepath.Join(dir, "own")
	say := func(what string, err error) { out <- what + " " + errnoOf(err) }
	open := func(name string, flags int) error {
		fd, err := unix.Open(name, flags, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	for where, base := range map[string]string{"inside": in, "outside": outside} {
		say(where+" read", open(base+"/file", unix.O_RDONLY))
		say(where+" write", open(base+"/file", unix.O_WRONLY))
		say(where+" list", open(base, unix.O_RDONLY|unix.O_DIRECTORY))
		say(where+" create", open(base+"/new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL))
		say(where+" truncate", unix.Truncate(base+"/file", 1))
		say(where+" mkdir", unix.Mkdir(base+"/dir", 0o700))
		say(where+" mkfifo", unix.Mkfifo(base+"/fifo", 0o600))
		say(where+" symlink", unix.Symlink("file", base+"/link"))
		say(where+" tmpfile", open(base, unix.O_TMPFILE|unix.O_RDWR))
		say(where+" rename to another directory", unix.Rename(base+"/file", base+"/sub/moved"))
		say(where+" link to another directory", unix.Link(base+"/sub/moved", base+"/file"))
		say(where+" unlink", unix.Unlink(base+"/gone"))
		say(where+" rmdir", unix.Rmdir(base+"/empty"))
		// As the daemon opens: a descriptor without rights, then by way of /proc.
		fd, _ := unix.Open(base+"/file", unix.O_PATH, 0)
		say(where+" reopen", open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR))
		_ = unix.Close(fd)
	}
	say("move in", unix.Rename(outside+"/file", in+"/taken"))
	say("move out", unix.Rename(in+"/file", outside+"/given"))
	say("own unlink", unix.Unlink(own+"/file"))
	say("own create", open(own+"/new", unix.O_WRONLY|unix.O_CREAT))
	say("own read", open(own+"/other", unix.O_RDONLY))
	say("passwd", open("/etc/passwd", unix.O_RDONLY))
	say("proc mem", open("/proc/self/mem", unix.O_RDWR))
	say("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
	say("device", deviceIoctl())
	say("tcp", connectTCP())
	say("run", execIn(in))
}

func deviceIoctl() error {
	fd, err := unix.Open("/dev/null", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY, 0)
	return err
}

func connectTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // it got as far as that
	}
	return err
}

// execIn tries to run a program of the share. execve would replace the process if it
// were allowed, so the file is none that can be run: ENOEXEC is a yes.
func execIn(dir string) error {
	name, err := unix.BytePtrFromString(dir + "/program")
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, ptr(name), 0, 0)
	return errno
}

func ptr(b *byte) uintptr { return uintptr(unsafe.Pointer(b)) }

// landlockTree makes share, outside and own in a new directory.
func landlockTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"share/sub", "share/empty", "outside/sub", "outside/empty", "own"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"share/file", "share/gone", "outside/file", "outside/gone", "own/file", "own/other", "share/program"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("text"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func needLandlock(t *testing.T) {
	t.Helper()
	guest.NeedRoot(t)
	if LandlockVersion() < minLandlock {
		t.Skip(ErrNoLandlock)
	}
}

// noCgoDir is what withoutCgo has made; TestMain removes it.
var noCgoDir string

// withoutCgo is this test binary, or one like it without cgo, which the race detector
// needs and Landlock can't have.
var withoutCgo = sync.OnceValues(func() (string, error) {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != unix.ENOTSUP {
		return "/proc/self/exe", nil
	}
	dir, err := os.MkdirTemp("/tmp", "govirtiofs-nocgo")
	if err != nil {
		return "", err
	}
	noCgoDir = dir
	cmd := exec.Command("go", "test", "-c", "-o", dir+"/sandbox.test", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir + "/sandbox.test", os.Chmod(dir, 0o755)
})

// landlock runs helpLandlock.
func landlock(t *testing.T, arg string, uid uint32) string {
	t.Helper()
	program, err := withoutCgo()
	if err != nil {
		t.Fatal(err)
	}
	out, err := helperOf(t, program, "landlock", arg, uid)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// TestIntegrationLandlock has no other layer: root with all its capabilities, in the
// host's own view, without a filter.
func TestIntegrationLandlock(t *testing.T) {
	needLandlock(t)
	works := []string{"read", "write", "list", "create", "truncate", "mkdir", "mkfifo", "symlink", "tmpfile",
		"rename to another directory", "link to another directory", "unlink", "rmdir", "reopen"}
	for _, mode := range []string{"old", "new"} {
		t.Run(mode+" thread", func(t *testing.T) {
			out := landlock(t, landlockTree(t)+":"+mode, 0)
			want := []string{"move in EACCES", "move out EACCES", "own unlink <nil>", "own create EACCES", "own read EACCES",
				"passwd EACCES", "proc mem EACCES", "mount EPERM", "device EACCES", "run EACCES"}
			if LandlockVersion() >= 4 {
				want = append(want, "tcp EACCES")
			}
			for _, w := range works {
				want = append(want, "inside "+w+" <nil>")
			}
			expect(t, out, want...)
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "outside") && strings.Contains(line, "<nil>") {
					t.Error(line)
				}
			}
		})
	}
}

func TestIntegrationLandlockReadOnly(t *testing.T) {
	needLandlock(t)
	out := landlock(t, landlockTree(t)+":ro", 0)
	expect(t, out, "inside read <nil>", "inside list <nil>", "inside write EACCES", "inside create EACCES",
		"inside truncate EACCES", "inside mkdir EACCES", "inside unlink EACCES", "inside rmdir EACCES", "inside tmpfile EACCES")
}

// A user needs no privilege for it.
func TestIntegrationLandlockUser(t *testing.T) {
	needLandlock(t)
	dir, err := os.MkdirTemp("/tmp", "govirtiofs-landlock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o777), os.MkdirAll(dir+"/share/sub", 0o755), os.MkdirAll(dir+"/own", 0o755),
		os.WriteFile(dir+"/share/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	expect(t, landlock(t, dir+":old", 65534), "inside read <nil>", "passwd EACCES")
}

// In a container that has many rules already there is no Landlock for us, which is not
// a failure to start.
func TestIntegrationLandlockLayers(t *testing.T) {
	needLandlock(t)
	expect(t, landlock(t, landlockTree(t)+":often", 0), fmt.Sprint("layers ", maxLayers, " true"))
}
