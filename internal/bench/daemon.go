package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// Target is a back-end to measure.
type Target struct {
	Name string
	// Command starts it: a program with options, quoted as for a shell, in which {socket} and {dir} stand for the
	// socket to listen at and the directory to share. Empty if it runs already.
	Command string
	Socket  string // where it listens, if it runs already
	PID     int    // the process whose time is measured; 0 is the process that listens
	Self    bool   // it is the first target again, to show the noise
}

// startTimeout is how long a daemon may take until it listens.
const startTimeout = 15 * time.Second

// daemon is a back-end that this process has started.
type daemon struct {
	cmd    *exec.Cmd
	socket string
	ended  chan struct{} // closed when the process has ended
	errors *tail
}

// tail keeps the end of what a daemon prints.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - 4<<10; extra > 0 {
		t.buf = slices.Clone(t.buf[extra:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// quote makes s one word of a shell command.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// startDaemon runs a target's command with a socket in scratch, in a process group of
// its own. The daemon is killed if this process ends in any way.
func startDaemon(t *Target, scratch, dir string) (*daemon, error) {
	d := &daemon{socket: filepath.Join(scratch, "socket"), ended: make(chan struct{}), errors: &tail{}}
	words := strings.NewReplacer("{socket}", quote(d.socket), "{dir}", quote(dir))
	// env lets the command begin with variables, and like exec leaves no shell behind.
	d.cmd = exec.Command("/bin/sh", "-c", "exec env "+words.Replace(t.Command))
	d.cmd.Stdout, d.cmd.Stderr = d.errors, d.errors
	d.cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := spawn.Start(d.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

// connect connects to the socket as soon as the daemon listens.
func (d *daemon) connect(ctx context.Context) (*net.UnixConn, error) {
	deadline := time.Now().Add(startTimeout)
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.socket, Net: "unix"})
		if err == nil {
			return c, nil
		}
		select {
		case <-d.ended:
			return nil, d.saying(fmt.Errorf("the daemon has ended: %v", d.cmd.ProcessState))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, d.saying(fmt.Errorf("the daemon does not listen at its socket after %v: %w", startTimeout, err))
		}
	}
}

// saying adds the daemon's output, if there is any, to an error.
func (d *daemon) saying(err error) error {
	if said := d.errors.String(); said != "" {
		return fmt.Errorf("%w\nThe daemon says:\n%s", err, said)
	}
	return err
}

// A stopStep is a signal for a daemon, 0 for none, and how long it may take to end then.
type stopStep struct {
	sig  unix.Signal
	wait time.Duration
}

// Most daemons end when their connection ends. The others get SIGTERM, then SIGKILL. When the
// user waits for the end, all get SIGTERM at once.
var (
	stopSteps    = []stopStep{{0, time.Second}, {unix.SIGTERM, 2 * time.Second}}
	hurriedSteps = []stopStep{{unix.SIGTERM, 150 * time.Millisecond}}
)

// stop ends the daemon and all that it has started.
func (d *daemon) stop(hurry bool) {
	pid := d.cmd.Process.Pid
	var family []int // as descriptors, because process numbers are used again
	for _, child := range tasks.Descendants(pid) {
		if fd, err := unix.PidfdOpen(child, 0); err == nil {
			family = append(family, fd)
		}
	}
	steps := stopSteps
	if hurry {
		steps = hurriedSteps
	}
	for _, step := range steps {
		if step.sig != 0 && !d.hasEnded() {
			_ = unix.Kill(-pid, step.sig)
		}
		select {
		case <-d.ended:
		case <-time.After(step.wait):
		}
	}
	if !d.hasEnded() {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	for _, fd := range family {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_ = unix.Close(fd)
	}
	<-d.ended
	_ = os.Remove(d.socket)
}

func (d *daemon) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}
