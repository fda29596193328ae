package program_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/relay"
	"github.com/govirtiofs/govirtiofs/relay/program"
)

// patience is how long a test waits for what is sure to happen.
const patience = 60 * time.Second

// start makes a program of this test's executable.
func start(t *testing.T, o program.Options, args ...string) (*program.Program, *daemontest.Log) {
	t.Helper()
	log := &daemontest.Log{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Args = append([]string{self, asProgram}, args...)
	p, err := program.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(p.MountPoint()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the mount point is left behind: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return p, log
}

// mount starts it and asks it for INIT and the root's attributes.
func mount(t *testing.T, p *program.Program) *relay.Mounted {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := p.Mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Socket.Close() })
	speak(t, m)
	return m
}

// speak is a FUSE client of two requests.
func speak(t *testing.T, m *relay.Mounted) {
	t.Helper()
	if err := m.Socket.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	request := func(opcode uint32, unique, node uint64, body []byte) []byte {
		t.Helper()
		b := make([]byte, 40)
		binary.LittleEndian.PutUint32(b, uint32(40+len(body)))
		binary.LittleEndian.PutUint32(b[4:], opcode)
		binary.LittleEndian.PutUint64(b[8:], unique)
		binary.LittleEndian.PutUint64(b[16:], node)
		if _, err := m.Socket.Write(append(b, body...)); err != nil {
			t.Fatal(err)
		}
		in := make([]byte, 1<<16)
		n, err := m.Socket.Read(in)
		if err != nil || n < 16 || binary.LittleEndian.Uint64(in[8:]) != unique || binary.LittleEndian.Uint32(in[4:]) != 0 {
			t.Fatalf("opcode %d: reply %x, %v", opcode, in[:n], err)
		}
		return in[16:n]
	}
	init := make([]byte, 64)
	binary.LittleEndian.PutUint32(init, 7)
	binary.LittleEndian.PutUint32(init[4:], 31)
	if r := request(26, 2, 0, init); binary.LittleEndian.Uint32(r) != 7 {
		t.Fatalf("INIT: %x", r)
	}
	if r := request(3, 4, 1, make([]byte, 16)); binary.LittleEndian.Uint32(r[16+60:])&unix.S_IFMT != unix.S_IFDIR {
		t.Fatalf("GETATTR: %x", r)
	}
}

// processes are those whose command line has a word.
func processes(t *testing.T, word string) (pids []string) {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil || d.Name() == strconv.Itoa(os.Getpid()) {
			continue
		}
		if b, err := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline")); err == nil && bytes.Contains(b, []byte(word)) {
			pids = append(pids, d.Name())
		}
	}
	return pids
}

func waitClosed(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing in %v", what, patience)
	}
}

// sandboxes are what each test of a program's life runs in.
func sandboxes(t *testing.T, f func(t *testing.T, o program.Options)) {
	for _, s := range []program.Sandbox{program.SandboxAuto, program.SandboxNone} {
		t.Run(string(s), func(t *testing.T) {
			if s == program.SandboxNone {
				if fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0); err == nil {
					_ = unix.Close(fd)
				} else {
					t.Skipf("/dev/fuse: %v", err)
				}
			}
			f(t, program.Options{Sandbox: s})
		})
	}
}

// TestMount: a program that mounts by itself is a FUSE server at the end of a socket, and ends with it or when it is told
// to.
func TestMount(t *testing.T) {
	for _, how := range []string{"serve", "background", "forked", "epoll", "children", "stubborn"} {
		t.Run(how, func(t *testing.T) {
			sandboxes(t, func(t *testing.T, o program.Options) {
				if how == "children" || how == "stubborn" {
					o.Grace = 300 * time.Millisecond
				}
				p, _ := start(t, o, how, "{mount}")
				m := mount(t, p)
				if m.Type != "fuse.test" || m.Source != "nowhere" || m.Flags != unix.MS_NOSUID|unix.MS_NODEV || !strings.HasSuffix(m.Options, ",max_read=4096") {
					t.Errorf("mounted %+v", *m)
				}
				if how == "serve" || how == "background" {
					_ = m.Socket.Close()
					waitClosed(t, "end of the program after its socket", m.Done)
				}
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				waitClosed(t, "end of the program", m.Done)
				if left := processes(t, p.MountPoint()); len(left) > 0 {
					t.Errorf("processes are left behind: %v", left)
				}
			})
		})
	}
}

// TestInherited: a program can inherit its descriptor.
func TestInherited(t *testing.T) {
	sandboxes(t, func(t *testing.T, o program.Options) {
		p, _ := start(t, o, "inherited", "/dev/fd/{fd}")
		m := mount(t, p)
		if m.Type != "" || m.Options != "" {
			t.Errorf("mounted %+v", *m)
		}
	})
}

// TestBadPrograms: what is wrong is said in one line, at once.
func TestBadPrograms(t *testing.T) {
	for _, c := range []struct{ how, want string }{
		{"usage", "has ended and has mounted nothing; it has printed its usage: its arguments are wrong"},
		{"status", "has ended with status 3 and has mounted nothing; its last words: the image is broken"},
		{"other", "its last words: operation not permitted"},
		{"new-api", "its last words: operation not permitted"},
		{"nothing", "has mounted nothing in 500ms"},
	} {
		t.Run(c.how, func(t *testing.T) {
			o := program.Options{}
			if c.how == "nothing" {
				o.StartTimeout = 500 * time.Millisecond
			}
			p, log := start(t, o, c.how, "{mount}")
			_, err := p.Mount(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, c.want)
			}
			if left := processes(t, p.MountPoint()); len(left) > 0 {
				t.Errorf("processes are left behind: %v", left)
			}
			if c.how == "status" && !strings.Contains(log.String(), "the image is broken") {
				t.Errorf("the program's output is not in the log: %s", log)
			}
		})
	}
	if _, err := program.New(program.Options{Args: []string{"no-such-program-here", "{mount}"}}); err == nil || !strings.Contains(err.Error(), "is the program installed?") {
		t.Errorf("a program that does not exist: %v", err)
	}
	if _, err := program.New(program.Options{}); err == nil {
		t.Error("no program: no error")
	}
}

// TestTwice: a second mount is an error that no restart helps.
func TestTwice(t *testing.T) {
	p, _ := start(t, program.Options{}, "twice", "{mount}")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := p.Mount(ctx)
	if err == nil {
		waitClosed(t, "end of the program", m.Done)
		if err := p.Err(); err == nil || !strings.Contains(err.Error(), "mounts a second time") {
			t.Errorf("Err: %v", err)
		}
		_ = m.Socket.Close()
	}
	if _, err := p.Mount(ctx); err == nil || !strings.Contains(err.Error(), "mounts a second time") {
		t.Errorf("it is started again: %v", err)
	}
}

// TestAgain: Mount starts the program again, with nothing left of the one before.
func TestAgain(t *testing.T) {
	sandboxes(t, func(t *testing.T, o program.Options) {
		p, _ := start(t, o, "epoll", "{mount}")
		first := mount(t, p)
		second := mount(t, p)
		waitClosed(t, "end of the first", first.Done)
		select {
		case <-second.Done:
			t.Error("the second has ended, too")
		default:
		}
		speak(t, second)
	})
}

// kill kills the program's own processes.
func kill(t *testing.T, p *program.Program) {
	t.Helper()
	for _, s := range processes(t, p.MountPoint()) {
		pid, _ := strconv.Atoi(s)
		if name, _ := os.ReadFile(filepath.Join("/proc", s, "cmdline")); !bytes.HasPrefix(name, []byte("govirtiofs-relay")) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// TestKilled: the end of a program is noticed and has a reason.
func TestKilled(t *testing.T) {
	sandboxes(t, func(t *testing.T, o program.Options) {
		p, _ := start(t, o, "serve", "{mount}")
		m := mount(t, p)
		if err := p.Err(); err != nil {
			t.Errorf("a program that serves has the error %v", err)
		}
		kill(t, p)
		waitClosed(t, "end of the program", m.Done)
		for name, why := range map[string]error{"the program's": p.Err(), "the mount's": m.Err()} {
			if why == nil || !strings.HasSuffix(why.Error(), ": the program was ended by a signal (killed)") {
				t.Errorf("%s error: %v", name, why)
			}
		}
	})
}

// TestCancelled: a start that takes too long can be given up.
func TestCancelled(t *testing.T) {
	p, _ := start(t, program.Options{}, "nothing", "{mount}")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("had enough")
	time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	if _, err := p.Mount(ctx); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = p.Close() })
	if _, err := p.Mount(t.Context()); !errors.Is(err, program.ErrClosed) {
		t.Errorf("error %v, want %v", err, program.ErrClosed)
	}
}

// TestConfined: the program has namespaces, no privileges, and nothing that this process has open.
func TestConfined(t *testing.T) {
	if err := unix.Dup3(1, leftOpen, 0); err != nil { // without O_CLOEXEC, as others may have left descriptors open
		t.Fatal(err)
	}
	defer unix.Close(leftOpen)
	p, log := start(t, program.Options{}, "facts", "{mount}")
	m := mount(t, p)
	if strings.Contains(log.String(), "without namespaces") {
		t.Skip("no namespaces here")
	}
	for _, want := range []string{"CapPrm:0000000000000000", "CapEff:0000000000000000", "CapBnd:0000000000000000", "CapAmb:0000000000000000",
		"NoNewPrivs:1", "Parent:1", "vmsplice:function not implemented", "pipe:operation not permitted", "user:operation not permitted", "left open:bad file descriptor"} {
		if !strings.Contains(m.Source, want) {
			t.Errorf("no %s in %s", want, m.Source)
		}
	}
}

// TestCapabilities: the program keeps what it is given, if this process has that.
func TestCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p, _ := start(t, program.Options{Capabilities: []uintptr{unix.CAP_CHOWN}}, "facts", "{mount}")
	m := mount(t, p)
	if !strings.Contains(m.Source, "CapEff:0000000000000001") {
		t.Errorf("capabilities of the program: %s", m.Source)
	}
}

// TestSelf: who has started the program is told the number that it has in its own namespace, if that was asked for.
func TestSelf(t *testing.T) {
	for _, self := range []bool{false, true} {
		p, _ := start(t, program.Options{Self: self}, "facts", "{mount}")
		m := mount(t, p)
		if want := fmt.Sprintf("Self:%d.", m.Process); (m.Process != 0) != self || self && !strings.Contains(m.Source, want) {
			t.Errorf("Self %v: process %d, facts %s", self, m.Process, m.Source)
		}
	}
}

// TestParentDies: the program does not outlive the process that has started it, however that ends.
func TestParentDies(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_TEST_PARENT") != "" {
		p, _ := start(t, program.Options{}, "children", "{mount}")
		mount(t, p)
		_, _ = os.Stdout.WriteString("point=" + p.MountPoint() + "\n")
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestParentDies$")
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), "GOVIRTIOFS_TEST_PARENT=1", "TMPDIR="+temp)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	b := make([]byte, 4096)
	var point string
	for point == "" {
		n, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, s, ok := strings.Cut(string(b[:n]), "point="); ok {
			point, _, _ = strings.Cut(s, "\n")
		}
	}
	if len(processes(t, point)) == 0 {
		t.Error("no process has the mount point in its arguments")
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	for deadline := time.Now().Add(patience); len(processes(t, point)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes are left behind: %v", processes(t, point))
		}
	}
	t.Setenv("TMPDIR", temp)
	// Another's, with such a name.
	foreign := filepath.Join(temp, "govirtiofs-program-notes")
	if err := os.MkdirAll(filepath.Join(foreign, "mount", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, _ := start(t, program.Options{}, "serve", "{mount}") // cleans
	start(t, program.Options{}, "serve", "{mount}")         // leaves p's alone
	if _, err := os.Stat(filepath.Dir(point)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed process has left is still there: %v", err)
	}
	for _, path := range []string{p.MountPoint(), p.EmptyDir(), filepath.Join(foreign, "mount", "data")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestWriteAtEnd: a program whose socket is closed ends by itself, without a signal.
func TestWriteAtEnd(t *testing.T) {
	sandboxes(t, func(t *testing.T, o program.Options) {
		p, log := start(t, o, "slow-end", "{mount}")
		m := mount(t, p)
		_ = m.Socket.Close()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "all is written") {
			t.Errorf("the program could not end by itself: %s", log)
		}
	})
}

// TestTempDir: what is made in a directory where others can put something else in its place is of no use.
func TestTempDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for mode, want := range map[os.FileMode]bool{0o777: false, 0o777 | os.ModeSticky: true, 0o700: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		p, err := program.New(program.Options{Args: []string{"true", "{mount}"}})
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "chmod +t") {
			t.Errorf("mode %v: %v", mode, err)
		}
		if err == nil {
			_ = p.Close()
		}
	}
}
