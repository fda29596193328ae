package events_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/helper"
	"github.com/govirtiofs/govirtiofs/events/wire"
	"github.com/govirtiofs/govirtiofs/fuse/stats"
	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// This machine's kernel is the guest here. Three processes play: the daemon, the helper, and the test,
// which changes the share behind the daemon's back and watches the mount with inotify.

func TestMain(m *testing.M) {
	var err error
	switch args := strings.Split(os.Getenv("EVENTS_TEST_ROLE"), ":"); args[0] {
	case "daemon":
		err = daemon(args[1], args[2], args[3])
	case "helper":
		err = help(args[1])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// daemon shares dir and mounts it on mnt; at SIGUSR1 it prints how many requests there were. The mode
// is "rw", "ro", "inotify", or how many directories are watched at most.
func daemon(dir, mnt, mode string) error {
	readOnly := mode == "ro"
	most, _ := strconv.Atoi(mode)
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	inner, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc, Cache: passthrough.CacheAlways, ReadOnly: readOnly})
	if err != nil {
		return err
	}
	fs, err := events.New(inner, events.Options{ReadOnly: readOnly, MaxDirectories: most, Inotify: mode == "inotify"})
	if err != nil {
		return err
	}
	h := stats.New(server.New(fs, server.Options{ReadOnly: readOnly}))
	mount, err := fusedev.New(mnt, fusedev.Options{Permissions: true, AllowOther: true, ReadOnly: readOnly})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGUSR1)
	go func() {
		for s := range signals {
			if s == unix.SIGUSR1 {
				c := h.Counts()
				fmt.Printf("%d %d\n", c[fp.OpLookup].Requests, c[fp.OpGetattr].Requests)
				continue
			}
			if mount.Unmount() != nil {
				_ = mount.Detach()
			}
		}
	}()
	fmt.Println("mounted")
	return mount.Serve(h, 2)
}

// help is the helper.
func help(mnt string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return helper.Watch(ctx, mnt, helper.Options{Ready: func() { fmt.Println("ready") },
		Trace: func(r wire.Record, err error) { slog.Info("performed", "record", fmt.Sprintf("%+v", r), "error", err) }})
}

// process is one of them.
type process struct {
	cmd   *exec.Cmd
	lines chan string
	said  daemontest.Log
}

func play(t testing.TB, role ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe), lines: make(chan string, 16)}
	p.cmd.Env = append(os.Environ(), "EVENTS_TEST_ROLE="+strings.Join(role, ":"))
	p.cmd.Stderr = &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := spawn.Start(p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := out.Read(b)
			if n > 0 {
				for l := range strings.Lines(string(b[:n])) {
					p.lines <- strings.TrimSpace(l)
				}
			}
			if err != nil {
				close(p.lines)
				return
			}
		}
	}()
	t.Cleanup(func() {
		p.end(unix.SIGTERM)
		if t.Failed() {
			t.Logf("%v: %s", role, p.said.String())
		}
	})
	return p
}

// end ends the process; again does nothing.
func (p *process) end(sig syscall.Signal) {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for range p.lines {
	}
	_ = p.cmd.Wait()
}

// hears waits for a line.
func (p *process) hears(t testing.TB) string {
	t.Helper()
	select {
	case l, ok := <-p.lines:
		if !ok {
			t.Fatalf("the process has ended: %s", p.said.String())
		}
		return l
	case <-time.After(time.Minute):
		t.Fatalf("the process says nothing: %s", p.said.String())
	}
	return ""
}

// world is a share and its mount.
type world struct {
	t              testing.TB
	share, mnt     string
	daemon, helper *process
	inotify        int
	names          map[int32]string
}

func newWorld(t testing.TB, mode string) *world {
	t.Helper()
	return newWorldOn(t, t.TempDir(), mode)
}

// newWorldOn shares the directory share in dir, which is made if it is not there.
func newWorldOn(t testing.TB, dir, mode string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount and to mark directories of the mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	w := &world{t: t, share: filepath.Join(dir, "share"), mnt: filepath.Join(t.TempDir(), "mnt")}
	for _, d := range []string{w.share, w.mnt} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	w.daemon = play(t, "daemon", w.share, w.mnt, mode)
	if l := w.daemon.hears(t); l != "mounted" {
		t.Fatal(l)
	}
	return w
}

func (w *world) help() {
	w.t.Helper()
	w.helper = play(w.t, "helper", w.mnt)
	if l := w.helper.hears(w.t); l != "ready" {
		w.t.Fatal(l)
	}
}

// host runs a script in the share.
func (w *world) host(script string) {
	w.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = w.share
	if b, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, b)
	}
}

const interesting = unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MODIFY | unix.IN_CLOSE_WRITE |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_ATTRIB

// watch watches a name of the mount, which events are said to be of.
func (w *world) watch(dir, name string) {
	w.t.Helper()
	wd, err := unix.InotifyAddWatch(w.inotify, filepath.Join(dir, name), interesting)
	if err != nil {
		w.t.Fatal(err)
	}
	w.names[int32(wd)] = name
}

var bits = []struct {
	bit  uint32
	name string
}{{unix.IN_CREATE, "CREATE"}, {unix.IN_DELETE, "DELETE"}, {unix.IN_DELETE_SELF, "DELETE_SELF"}, {unix.IN_MODIFY, "MODIFY"},
	{unix.IN_CLOSE_WRITE, "CLOSE_WRITE"}, {unix.IN_MOVED_FROM, "MOVED_FROM"}, {unix.IN_MOVED_TO, "MOVED_TO"},
	{unix.IN_MOVE_SELF, "MOVE_SELF"}, {unix.IN_ATTRIB, "ATTRIB"}, {unix.IN_IGNORED, "IGNORED"}, {unix.IN_ISDIR, "ISDIR"},
	{unix.IN_Q_OVERFLOW, "Q_OVERFLOW"}}

// events are what inotify says until a file with the name end appears; cookies are numbered.
func (w *world) events(end string) (list []string) {
	w.t.Helper()
	b := make([]byte, 64<<10)
	cookies := map[uint32]int{}
	deadline := time.Now().Add(time.Minute)
	for {
		p := []unix.PollFd{{Fd: int32(w.inotify), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 1000); n == 0 {
			if time.Now().After(deadline) {
				w.t.Fatalf("no %s; so far %q\n%s", end, list, w.helper.said.String())
			}
			continue
		}
		n, err := unix.Read(w.inotify, b)
		if err != nil {
			w.t.Fatal(err)
		}
		for e := b[:n]; len(e) >= unix.SizeofInotifyEvent; {
			wd, mask, cookie := int32(binary.NativeEndian.Uint32(e)), binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:])
			size := int(binary.NativeEndian.Uint32(e[12:]))
			name := strings.TrimRight(string(e[16:16+size]), "\x00")
			e = e[16+size:]
			if name == end {
				return list
			}
			var words []string
			for _, k := range bits {
				if mask&k.bit != 0 {
					words = append(words, k.name)
				}
			}
			text := strings.Join(words, ",") + " " + filepath.Join(w.names[wd], name)
			if cookie != 0 {
				if cookies[cookie] == 0 {
					cookies[cookie] = len(cookies) + 1
				}
				text += fmt.Sprintf(" #%d", cookies[cookie])
			}
			list = append(list, text)
		}
	}
}

// expect compares what a script makes inotify say of the mount with what it says of a local directory.
func (w *world) expect(script string, watched ...string) {
	w.t.Helper()
	local := &world{t: w.t, share: w.t.TempDir(), helper: w.helper}
	cmd := exec.Command("cp", "-a", w.share+"/.", local.share)
	if b, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, b)
	}
	local.mnt = local.share
	var results [2][]string
	for i, x := range []*world{local, w} {
		x.listen()
		for _, name := range watched {
			x.watch(x.mnt, name)
		}
		x.host(script + "\n: >a/the-end")
		results[i] = x.events("the-end")
		_ = unix.Close(x.inotify)
		x.host("rm a/the-end")
	}
	if want, got := results[0], results[1]; !slices.Equal(got, want) {
		w.t.Errorf("%s:\n got %q\nwant %q", script, got, want)
	}
}

// listen begins to watch.
func (w *world) listen() {
	w.t.Helper()
	var err error
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
		w.t.Fatal(err)
	}
	w.names = map[int32]string{}
}

// watchers are the modes by what watches the host.
var watchers = map[string]string{"fanotify": "rw", "inotify": "inotify"}

func TestRealEvents(t *testing.T) {
	for name, mode := range watchers {
		t.Run(name, func(t *testing.T) { testRealEvents(t, mode) })
	}
}

func testRealEvents(t *testing.T, mode string) {
	w := newWorld(t, mode)
	w.host("mkdir -p a/sub b unwatched/sub; echo old >a/file; echo x >a/victim; echo y >b/other; echo z >unwatched/out; mkdir unwatched/dir a/away")
	w.help()
	for _, c := range []struct {
		name, script string
		watched      []string
	}{
		{"make", "mkdir a/d; sleep 0.1; ln -s x a/l; sleep 0.1; mkfifo a/p; sleep 0.1", nil},
		{"write", ": >a/new; sleep 0.1; echo text >>a/file; sleep 0.1", []string{"a/file"}},
		{"attributes", "chmod 600 a/file; sleep 0.1; touch -d 2001-01-01 a/file; sleep 0.1; chmod 700 a/sub; sleep 0.1", []string{"a/file", "a/sub"}},
		{"remove", "rm a/new; sleep 0.1; rm a/victim; sleep 0.1; rmdir a/d; sleep 0.1; rm a/p a/l; sleep 0.1", []string{"a/victim"}},
		{"rename", "mv a/file a/file2; sleep 0.1; mv a/file2 b/file; sleep 0.1; mv b/file a/file; sleep 0.1", nil},
		{"save", "echo newer >a/.file.tmp; sleep 0.1; mv a/.file.tmp a/file; sleep 0.1", nil},
		{"directories", "mv unwatched/dir a/in; sleep 0.1; mv a/in unwatched/dir; sleep 0.1; mv a/away b/away; sleep 0.1; mv b/away a/away; sleep 0.1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.expect(c.script, append([]string{"a", "b"}, c.watched...)...)
		})
	}
	w.t = t
	if b, err := os.ReadFile(filepath.Join(w.mnt, "a/file")); string(b) != "newer\n" {
		t.Errorf("a/file has %q, %v", b, err)
	}
}
