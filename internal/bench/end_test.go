package bench

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
)

// goOn is for files that are made to the end.
func goOn() error { return nil }

// mute listens and answers nothing. It reports each connection on a channel.
func mute(t *testing.T) (path string, accepted chan *net.UnixConn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	accepted = make(chan *net.UnixConn, 4)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			accepted <- c
		}
	}()
	return path, accepted
}

// opts measures getattr of a back-end that runs.
func optsFor(t *testing.T, socket string) *Options {
	w, err := FindWorkloads([]string{"getattr"})
	if err != nil {
		t.Fatal(err)
	}
	return &Options{Dir: t.TempDir(), Workloads: w, Targets: []Target{{Name: "mute", Socket: socket}}}
}

// TestSilent: the run gives up a back-end that listens and does not answer, with an
// error that says what to do.
func TestSilent(t *testing.T) {
	path, _ := mute(t)
	defer func(d time.Duration) { answerTimeout = d }(answerTimeout)
	answerTimeout = 20 * time.Millisecond
	_, err := Run(context.Background(), optsFor(t, path))
	if err == nil || !strings.Contains(err.Error(), "has not answered for 20ms") || !strings.Contains(err.Error(), "--daemon") {
		t.Errorf("got %v", err)
	}
}

// TestSetupInterrupted: a run whose back-end does not answer can be interrupted. The error
// is the reason why the context ended.
func TestSetupInterrupted(t *testing.T) {
	path, accepted := mute(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	go func() {
		<-accepted
		cancel(why)
	}()
	o := optsFor(t, path)
	if _, err := Run(ctx, o); !errors.Is(err, why) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want %v", err, why)
	}
	if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// TestHangUp: a back-end that closes the connection is not reported as one that
// does not answer.
func TestHangUp(t *testing.T) {
	path, accepted := mute(t)
	go func() { _ = (<-accepted).Close() }()
	if _, err := Run(context.Background(), optsFor(t, path)); !endedConnection(err) {
		t.Errorf("got %v", err)
	}
}

// TestDaemonEnds: when the connection ended because the daemon has ended, the error says so
// and has the daemon's output.
func TestDaemonEnds(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(&Target{Command: `sh -c "echo my last words >&2; exit 3" {socket}`}, dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{ctx: context.Background(), opts: &Options{}, daemon: d}
	defer func() { _ = s.close() }()
	<-d.ended
	err = s.explain(frontend.ErrGone)
	if !errors.Is(err, frontend.ErrGone) || !strings.Contains(err.Error(), "exit status 3") ||
		!strings.HasSuffix(err.Error(), "The daemon says:\nmy last words") {
		t.Errorf("got %v", err)
	}
	if err := s.explain(errors.New("other")); !strings.Contains(err.Error(), "my last words") {
		t.Errorf("got %v", err)
	}
}

// TestDaemonStopsInHaste: a daemon that is suspended (SIGSTOP) is ended, too.
func TestDaemonStopsInHaste(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(&Target{Command: `sleep 1000 # {socket}`}, dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(d.cmd.Process.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.stop(true)
	if !d.hasEnded() {
		t.Error("it is still there")
	}
}

// TestPrepareNeeds: prepare makes only what the workloads need, and stops early when the
// run has ended.
func TestPrepareNeeds(t *testing.T) {
	for name, want := range map[string]string{"getattr": "small tmp", "lookup-new": "many tmp", "readdirplus": "list tmp",
		"fsync": "tmp", "randread": "cold tmp", "mixed": "small big tmp"} {
		w, err := FindWorkloads([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		f, err := prepare(&Options{Dir: t.TempDir(), Workloads: w, Files: 3, ColdSize: 1 << 20}, goOn)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(f.made, " "); got != want {
			t.Errorf("%s: made %s, want %s", name, got, want)
		}
		if list, _ := os.ReadDir(f.path); len(list) != len(f.made) {
			t.Errorf("%s: %v is there, want %s", name, list, want)
		}
		if err := f.remove(); err != nil {
			t.Error(err)
		}
	}
	o, calls, why := &Options{Dir: t.TempDir(), Workloads: Workloads(), Files: 3, ColdSize: 1 << 20}, 0, errors.New("enough")
	_, err := prepare(o, func() error {
		if calls++; calls > 20 {
			return why
		}
		return nil
	})
	if !errors.Is(err, why) || calls != 21 || strings.Contains(err.Error(), "\n") {
		t.Errorf("after %d looks: %v", calls, err)
	}
	if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
