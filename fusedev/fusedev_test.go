package fusedev

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/server"
)

// A process must not use a mount that it serves itself: this one serves, and programs
// that it starts use the mount; or the other way round.

func TestMain(m *testing.M) {
	if target := os.Getenv("FUSEDEV_SERVE"); target != "" {
		if err := serveHello(target); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// hello is a file system with one file, whose content is told by the reader's user.
type hello struct{ server.NotImplemented }

var goOn = make(chan struct{}) // of the serving process

const content = "hello\n"

func (hello) attr(id uint64, a *fp.Attr) unix.Errno {
	switch id {
	case 1:
		*a = fp.Attr{Ino: 1, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
	case 2:
		*a = fp.Attr{Ino: 2, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: uint64(len(content))}
	default:
		return unix.ENOENT
	}
	return 0
}

// Init agrees to FUSE_ABORT_ERROR, with which an abort is told by another error than an unmount.
func (hello) Init(p *server.InitParams) unix.Errno {
	p.Flags |= p.Offered & fp.InitAbortError
	return 0
}

func (h hello) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return h.attr(r.Header.NodeID, &out.Attr)
}

func (h hello) Lookup(_ *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	switch name.String() {
	case "hello":
		out.NodeID = 2
		return h.attr(2, &out.Attr)
	case "panic":
		panic("as asked for")
	case "hang", "hang too":
		<-goOn
	case "go on":
		close(goOn)
	}
	return unix.ENOENT
}

func (hello) Open(*server.Request, *fp.OpenIn, *fp.OpenOut) unix.Errno { return 0 }

func (hello) Read(_ *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	return dst.CopyFrom([]byte(content[min(in.Offset, uint64(len(content))):]), 0), 0
}

// serveHello mounts, says so, and serves until somebody unmounts.
func serveHello(target string) error {
	m, err := New(target, Options{Subtype: "hello", Permissions: true, IOUring: os.Getenv("FUSEDEV_URING") != ""})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	fmt.Println("mounted")
	go func() { // the other end of standard input is held by the test
		_, _ = io.Copy(io.Discard, os.Stdin)
		// Not Unmount: other tests of this machine start processes with mount namespaces of their own meanwhile,
		// which have copies of all mounts, this one included.
		if err := m.End(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Serve(server.New(hello{}, server.Options{Log: slog.New(slog.DiscardHandler)}), 2)
}

// unmountSoon waits for somebody who looks at all mounts of the machine, this one included.
func unmountSoon(m *Mount) error {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := m.Unmount(); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// start serves target in a process of its own as user uid. The returned function asks
// it to unmount and waits.
func start(t *testing.T, target string, uid uint32) (stop func() error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FUSEDEV_SERVE="+target)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != uint32(os.Geteuid()) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Fatalf("server: %q", line)
	}
	return func() error {
		_ = in.Close()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			return err
		case <-time.After(40 * time.Second):
			return errors.New("the server did not end")
		}
	}
}

// mounted tells what is mounted on target: source, type and options.
func mounted(t *testing.T, target string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == target {
			return strings.Join([]string{f[0], f[2], f[3]}, " ")
		}
	}
	return ""
}

// TestServeStuck: a mount goes on when all its threads hang in requests, which are answered when they end.
func TestServeStuck(t *testing.T) {
	guest.NeedFUSE(t)
	target := t.TempDir()
	stop := start(t, target, 0)
	hung := make(chan error, 2)
	for _, name := range []string{"hang", "hang too"} { // there are two threads
		go func() {
			_, err := os.Stat(filepath.Join(target, name))
			hung <- err
		}()
	}
	for range 10 {
		b, err := os.ReadFile(filepath.Join(target, "hello"))
		if err != nil || string(b) != content {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	select {
	case err := <-hung:
		t.Fatal("it does not hang:", err)
	default:
	}
	if _, err := os.Stat(filepath.Join(target, "go on")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for range 2 {
		if err := <-hung; !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestEnd: End ends a mount that is in use, and of which another mount namespace has a copy.
func TestEnd(t *testing.T) {
	guest.NeedFUSE(t)
	target := t.TempDir()
	stop := start(t, target, 0)
	f, err := os.Open(filepath.Join(target, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	other := exec.Command("sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := spawn.Start(other); err != nil {
		guest.Missing(t, err)
	}
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	copied := fmt.Sprintf("/proc/%d/root%s", other.Process.Pid, target)
	if _, err := os.Stat(filepath.Join(copied, "hello")); err != nil {
		t.Fatal("the other namespace has no copy: ", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{copied, target} {
		if _, err := os.Stat(filepath.Join(dir, "hello")); err == nil {
			t.Errorf("%s is still served", dir)
		}
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("the open file can still be read")
	}
}

func TestServe(t *testing.T) {
	guest.NeedFUSE(t)
	testServe(t)
}

// TestServeURing is TestServe with requests that come by io_uring.
func TestServeURing(t *testing.T) {
	needURing(t)
	t.Setenv("FUSEDEV_URING", "1")
	testServe(t)
}

func testServe(t *testing.T) {
	target := t.TempDir()
	stop := start(t, target, 0)
	if m := mounted(t, target); !strings.HasPrefix(m, "govirtiofs fuse.hello rw,") || !strings.Contains(m, "default_permissions") {
		t.Errorf("mount shows as %q", m)
	}
	for range 10 {
		b, err := os.ReadFile(filepath.Join(target, "hello"))
		if err != nil || string(b) != content {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	// A panic costs its request and thread; both threads are used up here and replaced.
	for range 5 {
		if _, err := os.Stat(filepath.Join(target, "panic")); !errors.Is(err, unix.EIO) {
			t.Errorf("stat: %v, want EIO", err)
		}
	}
	if _, err := os.Stat(filepath.Join(target, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat: %v, want ENOENT", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if m := mounted(t, target); m != "" {
		t.Errorf("still mounted: %s", m)
	}
}

func TestUnprivileged(t *testing.T) {
	guest.NeedFUSE(t)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		guest.Missing(t, err)
	}
	// Distributions leave /dev/fuse open to all (udev's rules); a bare machine may not.
	st, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o666 {
		if err := os.Chmod("/dev/fuse", 0o666); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod("/dev/fuse", st.Mode().Perm()) })
	}
	const nobody = 65534
	target, err := os.MkdirTemp("/var/tmp", "fusedev") // every part of the path is open to nobody
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(target) })
	if err := os.Chown(target, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	stop := start(t, target, nobody)
	if m := mounted(t, target); !strings.HasPrefix(m, "govirtiofs fuse.hello ") || !strings.Contains(m, "user_id=65534") {
		t.Errorf("mount shows as %q", m)
	}
	cmd := exec.Command("cat", filepath.Join(target, "hello"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if b, err := cmd.CombinedOutput(); err != nil || string(b) != content {
		t.Errorf("cat: %q, %v", b, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if m := mounted(t, target); m != "" {
		t.Errorf("still mounted: %s", m)
	}
}

func TestMountErrors(t *testing.T) {
	guest.NeedFUSE(t)
	if _, err := New(filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "make the directory first") {
		t.Errorf("missing target: %v", err)
	}
	left := t.TempDir()
	dead, err := New(left, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(left, Options{}); !errors.Is(err, unix.ENOTCONN) || !strings.Contains(err.Error(), "umount "+left) {
		t.Errorf("a mount whose server has died: %v", err)
	}
	if err := unix.Unmount(left, 0); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := New(file, Options{ReadOnly: true}) // a file can be mounted on as well
	if err != nil {
		t.Fatal(err)
	}
	if got := mounted(t, file); !strings.HasPrefix(got, "govirtiofs fuse ro,") {
		t.Errorf("mount shows as %q", got)
	}
	if err := m.Unmount(); err != nil {
		t.Error(err)
	}
	if _, err := m.Read(make([]byte, BufferSize)); !errors.Is(err, io.EOF) {
		t.Errorf("read after unmount: %v, want EOF", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestHint: errors that a new user meets say what to do.
func TestHint(t *testing.T) {
	for _, c := range []struct {
		err  error
		says string
	}{
		{&os.PathError{Op: "open", Path: "/dev/fuse", Err: unix.ENOENT}, "modprobe fuse"},
		{&os.PathError{Op: "open", Path: "/dev/fuse", Err: unix.ENODEV}, "modprobe fuse"},
		{&os.PathError{Op: "open", Path: "/dev/fuse", Err: unix.EACCES}, "give the container the device"},
		{&os.PathError{Op: "stat", Path: "/mnt/x", Err: unix.ENOENT}, "make the directory first"},
		{&os.PathError{Op: "stat", Path: "/mnt/x", Err: unix.ENOTCONN}, "umount /mnt/x"},
		{&os.PathError{Op: "stat", Path: "/mnt/x", Err: unix.EIO}, ""},
	} {
		err := hint(c.err, "/mnt/x")
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) || c.says == "" && err.Error() != c.err.Error() {
			t.Errorf("%v: %v, want %q", c.err, err, c.says)
		}
	}
}

// TestReply: the kernel refuses a malformed reply; the process that waits for it gets EIO.
func TestReply(t *testing.T) {
	guest.NeedFUSE(t)
	target := t.TempDir()
	m, err := New(target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.Detach() }()
	cmd := exec.Command("stat", filepath.Join(target, "x"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, BufferSize)
	for { // INIT, then the LOOKUP
		n, err := m.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		in, _, _ := fp.View[fp.InHeader](b[:n])
		out := fp.OutHeader{Len: 16, Unique: in.Unique}
		if in.Opcode == uint32(fp.OpInit) {
			init := fp.InitOut{Major: fp.KernelVersion, Minor: fp.KernelMinorVersion, MaxWrite: 4096}
			r := append(fp.Bytes(&out), fp.Bytes(&init)...)
			h, _, _ := fp.View[fp.OutHeader](r)
			h.Len = uint32(len(r))
			if err := m.Answer(r); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := reply(int(m.file.Fd()), append(fp.Bytes(&out), 1, 2, 3)); err != nil {
			t.Errorf("reply: %v", err)
		}
		break
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a malformed reply was taken")
	}
}
