package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// What a test does to its process can't be undone, so it is done in a process of its
// own: this test binary, with the name of a function in the environment.
const helperEnv = "GOVIRTIOFS_SANDBOX_HELPER"

// helpers print what they find, and return an error when they could not look.
var helpers = map[string]func(arg string) error{
	"namespace":    helpNamespace,
	"shares":       helpShares,
	"refused":      helpRefused,
	"chroot":       helpChroot,
	"capabilities": helpCapabilities,
	"launched":     helpLaunched,
	"inherited":    helpInherited,
	"filter":       helpFilter,
	"rlimit":       helpRlimit,
	"landlock":     helpLandlock,
	"layer":        helpLayer,
}

// init keeps TestMain on the first thread: on a busy machine it would begin on another one now and then.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	name, arg, _ := strings.Cut(os.Getenv(helperEnv), ":")
	if name == "" {
		status := m.Run()
		if noCgoDir != "" {
			_ = os.RemoveAll(noCgoDir)
		}
		os.Exit(status)
	}
	// A process that the filter kills would leave a core.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if err := helpers[name](arg); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(3)
	}
	os.Exit(0)
}

// helper runs a helper as the user uid and returns what it prints.
func helper(t *testing.T, name, arg string, uid uint32) (string, error) {
	t.Helper()
	return helperOf(t, "/proc/self/exe", name, arg, uid)
}

// helperOf is helper with another test binary.
func helperOf(t *testing.T, program, name, arg string, uid uint32) (string, error) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), helperEnv+"="+name+":"+arg, "GORACE=atexit_sleep_ms=0")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	out, err := cmd.Output()
	if errs.Len() > 0 {
		t.Logf("%s: %s", name, errs.String())
	}
	return string(out), err
}

func mustHelper(t *testing.T, name, arg string, uid uint32) string {
	t.Helper()
	out, err := helper(t, name, arg, uid)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, arg, err, out)
	}
	return out
}

// share makes a directory to share that other users can reach.
func share(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "govirtiofs-sandbox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "inside"), []byte("x"), 0o644),
		os.Symlink("inside", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// expect compares the lines that a helper printed.
func expect(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains("\n"+out, "\n"+w+"\n") {
			t.Errorf("want the line %q in:\n%s", w, out)
		}
	}
}

// helpNamespace is both processes: it starts itself, and looks around inside.
func helpNamespace(arg string) error {
	dir, mode, _ := strings.Cut(arg, ":")
	n := &Namespace{ReadOnly: mode == "ro"}
	const insideEnv = "GOVIRTIOFS_SANDBOX_INSIDE"
	if os.Getenv(insideEnv) == "" {
		cmd, err := n.Start([]string{insideEnv + "=1"}, nil)
		if err != nil {
			return err
		}
		return cmd.Wait()
	}
	v, err := n.Enter(dir)
	if err != nil {
		return err
	}
	defer v.Close()
	lookAround(v)
	return nil
}

// lookAround prints what can be seen of the host.
func lookAround(v View) {
	for _, name := range []string{"/etc/passwd", "/proc/self", "/../etc/passwd", "/inside", "/link"} {
		f, err := os.Open(name)
		fmt.Println("open", name, errnoOf(err))
		f.Close()
	}
	fd, err := unix.Openat(v.Root, "../etc/passwd", unix.O_PATH, 0)
	fmt.Println("openat ..", errnoOf(err))
	unix.Close(fd)
	fd, err = unix.Openat(v.Proc, "../mounts", unix.O_PATH, 0)
	fmt.Println("openat proc ..", errnoOf(err))
	unix.Close(fd)
	// A file is reached through its descriptor.
	fd, _ = unix.Openat(v.Root, "inside", unix.O_PATH|unix.O_NOFOLLOW, 0)
	again, err := unix.Openat(v.Proc, fmt.Sprint(fd), unix.O_RDONLY, 0)
	fmt.Println("reopen", errnoOf(err))
	unix.Close(again)
	unix.Close(fd)
	lookAtTasks(v)
	fmt.Println("write", errnoOf(os.WriteFile("/made", nil, 0o644)))
	fmt.Println("pid", os.Getpid(), "kill parent", errnoOf(unix.Kill(os.Getppid()+1000000, 0)))
	names := []string{}
	links, _ := net.Interfaces()
	for _, l := range links {
		names = append(names, l.Name)
	}
	fmt.Println("network", names)
}

// lookAtTasks prints what can be reached through View.Tasks.
func lookAtTasks(v View) {
	if v.Tasks < 0 {
		fmt.Println("no tasks")
		return
	}
	dir, err := unix.Openat(v.Tasks, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	fmt.Println("list tasks", errnoOf(err))
	f := os.NewFile(uintptr(dir), "task")
	defer f.Close()
	names, _ := f.Readdirnames(1)
	if len(names) == 0 {
		fmt.Println("no task is there")
		return
	}
	for name, flags := range map[string]int{"/stat": unix.O_RDONLY, "/wchan": unix.O_RDONLY, "/comm": unix.O_WRONLY, "/mem": unix.O_RDWR,
		"/exe": unix.O_RDONLY, "/root/etc": unix.O_RDONLY, "/cwd/..": unix.O_RDONLY, "/fd/0": unix.O_RDONLY,
		"/../../../1/stat": unix.O_RDONLY} {
		fd, err := unix.Openat(v.Tasks, names[0]+name, flags, 0)
		fmt.Println("task"+name, errnoOf(err))
		unix.Close(fd)
	}
}

func errnoOf(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

func TestIntegrationNamespace(t *testing.T) {
	guest.NeedRoot(t)
	for _, user := range []struct {
		name string
		uid  uint32
	}{{"root", 0}, {"user", 65534}} {
		t.Run(user.name, func(t *testing.T) {
			out := mustHelper(t, "namespace", share(t), user.uid)
			expect(t, out, "open /etc/passwd ENOENT", "open /proc/self ENOENT", "open /../etc/passwd ENOENT",
				"open /inside <nil>", "openat .. ENOENT", "openat proc .. ENOENT", "reopen <nil>", "write <nil>",
				"pid 1 kill parent ESRCH", "network [lo]")
			expect(t, out, confinedTasks...)
		})
	}
}

// confinedTasks are what a process can do with View.Tasks: read about its threads.
var confinedTasks = []string{"list tasks <nil>", "task/stat <nil>", "task/wchan <nil>", "task/comm EROFS", "task/mem EROFS",
	"task/exe ELOOP", "task/root/etc ELOOP", "task/cwd/.. ELOOP", "task/fd/0 ELOOP", "task/../../../1/stat ENOENT"}

func TestIntegrationNamespaceReadOnly(t *testing.T) {
	guest.NeedRoot(t)
	expect(t, mustHelper(t, "namespace", share(t)+":ro", 0), "open /inside <nil>", "write EROFS")
}

// No link of the share is followed even by a program that forgets to say so.
func TestIntegrationNamespaceLinks(t *testing.T) {
	guest.NeedRoot(t)
	expect(t, mustHelper(t, "namespace", share(t), 0), "open /link ELOOP")
}

func TestIntegrationNamespaceFile(t *testing.T) {
	guest.NeedRoot(t)
	out := mustHelper(t, "namespace", filepath.Join(share(t), "inside"), 0)
	expect(t, out, "open /inside ENOENT", "open /etc/passwd ENOENT", "write EROFS", "openat .. ENOTDIR")
}

func TestIntegrationNamespaceWholeHost(t *testing.T) {
	guest.NeedRoot(t)
	expect(t, mustHelper(t, "namespace", "/:ro", 0), "open /etc/passwd <nil>", "write EROFS", "network [lo]")
}

// helpRefused tries to make namespaces as root without CAP_SYS_ADMIN, which is what
// root of a container is.
func helpRefused(dir string) error {
	if err := SetCapabilities(DefaultCapabilities()); err != nil {
		return err
	}
	cmd, err := (&Namespace{}).Start([]string{helperEnv + "=namespace:" + dir}, nil)
	if err == nil {
		_ = cmd.Wait()
	}
	fmt.Println("refused", errors.Is(err, ErrNotPermitted), err)
	return nil
}

// Namespaces that can't be had are an error that says so, and nothing weaker.
func TestIntegrationNamespaceRefused(t *testing.T) {
	guest.NeedRoot(t)
	if out := mustHelper(t, "refused", share(t), 0); !strings.HasPrefix(out, "refused true") {
		t.Error(out)
	}
}

func helpChroot(dir string) error {
	v, err := Chroot(dir)
	if err != nil {
		return err
	}
	defer v.Close()
	lookAround(v)
	return nil
}

func TestIntegrationChroot(t *testing.T) {
	guest.NeedRoot(t)
	dir := share(t)
	expect(t, mustHelper(t, "chroot", dir, 0), confinedTasks...)
	expect(t, mustHelper(t, "chroot", dir, 0), "open /etc/passwd ENOENT", "open /inside <nil>", "openat .. ENOENT", "reopen <nil>")
	if out, err := helper(t, "chroot", dir, 65534); err == nil {
		t.Errorf("a user without privileges could chroot: %s", out)
	}
	if out, err := helper(t, "chroot", filepath.Join(dir, "inside"), 0); err == nil {
		t.Errorf("chroot to a file: %s", out)
	}
}

// manyThreads starts threads that stay, and returns how to end them.
func manyThreads(n int, f func()) (stop func()) {
	var ready, done sync.WaitGroup
	end := make(chan struct{})
	for range n {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-end
			f()
		})
	}
	ready.Wait()
	return func() { close(end); done.Wait() }
}

func helpCapabilities(changes string) error {
	defer manyThreads(4, func() {})()
	keep := DefaultCapabilities()
	if changes != "" {
		var err error
		if keep, err = ModifyCapabilities(keep, changes); err != nil {
			return err
		}
	}
	if err := errors.Join(DropGroups(), NoNewPrivileges(), SetCapabilities(keep)); err != nil {
		return err
	}
	defer manyThreads(4, func() {})()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") || strings.HasPrefix(line, "Groups") {
				fmt.Println(strings.Join(strings.Fields(line), " "))
			}
		}
	}
	fmt.Println("threads", len(tasks) >= 8)
	return nil
}

func mask(values []cap.Value) uint64 {
	var m uint64
	for _, v := range values {
		m |= 1 << v
	}
	return m
}

// Every thread has the capabilities that are kept, in every set, and no others.
func TestIntegrationCapabilities(t *testing.T) {
	guest.NeedRoot(t)
	for _, test := range []struct {
		name, changes string
		uid           uint32
		want          uint64
	}{
		{"default", "", 0, mask(DefaultCapabilities())},
		{"less", "-mknod", 0, mask(DefaultCapabilities()) &^ (1 << cap.MKNOD)},
		{"more", "+sys_admin:+MKNOD", 0, mask(DefaultCapabilities()) | 1<<cap.SYS_ADMIN},
		{"user", "+sys_admin", 65534, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := mustHelper(t, "capabilities", test.changes, test.uid)
			expect(t, out, "threads true")
			want := map[string]uint64{"CapInh:": 0, "CapPrm:": test.want, "CapEff:": test.want, "CapBnd:": test.want, "CapAmb:": 0}
			if test.uid != 0 {
				delete(want, "CapBnd:") // nothing could be got from it
			}
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				if w, ok := want[f[0]]; ok && f[1] != fmt.Sprintf("%016x", w) {
					t.Errorf("%s want %016x", strings.TrimSpace(line), w)
				}
				if f[0] == "NoNewPrivs:" && f[1] != "1" || f[0] == "Groups:" && len(f) > 1 && test.uid == 0 {
					t.Errorf("%s", strings.TrimSpace(line))
				}
			}
		})
	}
}

func TestModifyCapabilities(t *testing.T) {
	for _, bad := range []string{"mknod", "+nosuch", "+", "-mknod:", "*mknod", ":"} {
		if got, err := ModifyCapabilities(nil, bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
	got, err := ModifyCapabilities([]cap.Value{cap.MKNOD, cap.CHOWN}, "-MKNOD:+sys_admin:+sys_admin")
	if err != nil || mask(got) != 1<<cap.CHOWN|1<<cap.SYS_ADMIN || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestParseIDMap(t *testing.T) {
	for in, want := range map[string]IDMap{
		":0:1000:1:": {0, 1000, 1}, ":0:1000:1": {0, 1000, 1}, "/1/100000/65536/": {1, 100000, 65536}, "-0-1-2-": {0, 1, 2},
	} {
		if got, err := ParseIDMap(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", ":", ":0:1000:", ":0:1000:0:", ":a:1:1:", ":-1:1:1:", ":0:1:2:3:", ":0:4294967296:1:"} {
		if got, err := ParseIDMap(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

func helpRlimit(arg string) error {
	var want uint64
	if _, err := fmt.Sscan(arg, &want); err != nil {
		return err
	}
	got, err := SetNoFile(want)
	if err != nil {
		return err
	}
	now, err := NoFile()
	fmt.Println("limit", got, now)
	return err
}

func TestIntegrationNoFile(t *testing.T) {
	var hard unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &hard); err != nil {
		t.Fatal(err)
	}
	expect(t, mustHelper(t, "rlimit", "700", 0), "limit 700 700")
	if os.Geteuid() == 0 {
		h := fmt.Sprintf("limit %d %d", hard.Max, hard.Max)
		expect(t, mustHelper(t, "rlimit", fmt.Sprint(hard.Max+1), 65534), h)
	}
}
