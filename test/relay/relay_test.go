// Package relay_test serves unmodified programs of Debian 12 with "govirtiofs relay": on this machine through
// /dev/fuse, and to a guest.
package relay_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/relay/program"
	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// patience is how long a test waits for what is sure to happen.
const patience = sample.Patience

// Programs that the tests build.
var govirtiofs, relaywork, rawfuse, guestwatch string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	program.RunChild()
	dir, err := os.MkdirTemp("/var/tmp", "govirtiofs-bin-") // /tmp is hidden in guests
	if err == nil {
		defer os.RemoveAll(dir)
		govirtiofs, relaywork, rawfuse = filepath.Join(dir, "govirtiofs"), filepath.Join(dir, "relaywork"), filepath.Join(dir, "rawfuse")
		guestwatch = filepath.Join(dir, "guestwatch")
		if err = os.Chmod(dir, 0o755); err == nil {
			err = guest.Build("-o", dir, "./cmd/govirtiofs", "./cmd/govirtiofsd", "./cmd/govirtiofs-guest", "./test/relay/relaywork", "./test/relay/rawfuse",
				"./internal/guest/cmd/guestwatch")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// user is who runs the relay and the program.
type user struct {
	name string
	uid  int
}

var users = []user{{"root", 0}, {"nobody", 65534}}

// bench is where a program is tried.
type bench struct {
	t    *testing.T
	dir  string // for the program's files; belongs to the user
	user user
	s3   gofakes3.Backend // what s3fs is tried with
	kill func()           // ends one of two servers that the program has
}

func newBench(t *testing.T, u user) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "govirtiofs-relay-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, user: u}
	b.give(dir)
	return b
}

// give gives a file to the user.
func (b *bench) give(path string) {
	b.t.Helper()
	if err := os.Lchown(path, b.user.uid, b.user.uid); err != nil {
		b.t.Fatal(err)
	}
}

// path makes a path for a file of the program.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// mkdir makes a directory of the user.
func (b *bench) mkdir(name string) string {
	b.t.Helper()
	if err := os.Mkdir(b.path(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.give(b.path(name))
	return b.path(name)
}

// write makes a file of the user.
func (b *bench) write(name, content string, mode os.FileMode) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(content), mode); err != nil {
		b.t.Fatal(err)
	}
	b.give(b.path(name))
}

// sample makes a directory of the user with the sample.
func (b *bench) sample(name string) string {
	b.t.Helper()
	b.run("", relaywork, b.mkdir(name), "", "f")
	return b.path(name)
}

// command is a command of the user.
func (b *bench) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "TMPDIR="+b.dir, "LC_ALL=C.UTF-8")
	cmd.Dir = b.dir
	if b.user.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(b.user.uid), Gid: uint32(b.user.uid)}}
	}
	return cmd
}

// run runs a command of the user, and returns what it prints.
func (b *bench) run(stdin, name string, args ...string) string {
	b.t.Helper()
	cmd := b.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// relayed is "govirtiofs relay" while it runs.
type relayed struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   daemontest.Log
	ended chan struct{}
	err   error
}

// relay starts "govirtiofs relay" with options, and a program.
func (b *bench) relay(options []string, program ...string) *relayed {
	b.t.Helper()
	r := &relayed{t: b.t, ended: make(chan struct{})}
	// Programs write images and archives when they end, which takes long on a busy machine.
	options = append([]string{"--stop-timeout=90"}, options...)
	r.cmd = b.command(govirtiofs, append(append([]string{"relay"}, options...), append([]string{"--"}, program...)...)...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	b.t.Cleanup(func() {
		r.stop()
		if b.t.Failed() {
			b.t.Logf("govirtiofs relay -- %s:\n%s", strings.Join(program, " "), tail(r.out.String()))
		}
	})
	return r
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// until waits for something, as long as the process runs.
func (r *relayed) until(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-r.ended:
			r.t.Fatalf("%s: the relay has ended: %v", what, r.err)
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not in %v", what, patience)
		}
	}
}

// stop ends it, and checks how it ends.
func (r *relayed) stop() {
	r.t.Helper()
	_ = r.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(patience):
		_ = r.cmd.Process.Signal(unix.SIGABRT) // prints what it does
		<-r.ended
		r.t.Errorf("the relay does not end:\n%s", r.out.String())
	}
	if r.err != nil {
		r.t.Errorf("the relay ended with %v", r.err)
		r.err = nil
	}
}

// mounted starts a relay that mounts here, and returns the directory.
func (b *bench) mounted(options []string, program ...string) (dir string, r *relayed) {
	b.t.Helper()
	dir = b.mkdir(fmt.Sprintf("mnt%d", time.Now().UnixNano()))
	r = b.relay(append([]string{"--mount", dir}, options...), program...)
	r.until("mount", func() bool { return strings.Contains(r.out.String(), "is mounted on") })
	return dir, r
}

// letters are what relaywork has for what a file system can't do.
func letters(o sample.Omit) string {
	s := ""
	for _, c := range []struct {
		is     bool
		letter string
	}{{o.Modes, "m"}, {o.Times, "t"}, {o.Links, "l"}, {o.Big, "b"}, {o.Rename, "r"}, {o.Truncate, "c"}} {
		if c.is {
			s += c.letter
		}
	}
	return s
}

// needPrograms makes sure that programs are installed.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			guest.Missing(t, fmt.Sprintf("%v: run test/relay/setup.sh", err))
		}
	}
}
