package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// stalled makes a pair of descriptors of which the second is written to.
func stalled(t *testing.T, socket bool) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	var err error
	if socket {
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	} else {
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestSteadyWriter: nobody reads, then somebody does.
func TestSteadyWriter(t *testing.T) {
	const lines = 20000
	for _, kind := range []string{"pipe", "somebody else's pipe", "socket"} {
		t.Run(kind, func(t *testing.T) {
			r, f := stalled(t, kind == "socket")
			w := &steadyWriter{put: steadily(f), notice: func(n int) []byte { return fmt.Appendf(nil, "dropped %d\n", n) }}
			if kind == "somebody else's pipe" {
				w.put = afterPoll(int(f.Fd()))
			}
			for i := range lines {
				if n, err := fmt.Fprintf(w, "line %d\n", i); err != nil || n == 0 {
					t.Fatalf("%d, %v", n, err)
				}
			}
			dropped := w.dropped
			if dropped == 0 || dropped == lines {
				t.Fatalf("%d of %d dropped", dropped, lines)
			}
			// As many as were not dropped are there, in order.
			b := make([]byte, 1<<20)
			got := &bytes.Buffer{}
			for strings.Count(got.String(), "\n") < lines-dropped {
				n, err := r.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(b[:n])
			}
			want := &bytes.Buffer{}
			for i := range lines - dropped {
				fmt.Fprintf(want, "line %d\n", i)
			}
			if got.String() != want.String() {
				t.Error("what was not dropped did not come as it was written")
			}
			fmt.Fprint(w, "again\n")
			next := fmt.Sprintf("dropped %d\nagain\n", dropped)
			if n, err := io.ReadFull(r, b[:len(next)]); err != nil || string(b[:n]) != next {
				t.Errorf("next: %q, %v, want %q", b[:n], err, next)
			}
		})
	}
}

// TestSteadyWriterLong: a line that a pipe does not take at once comes whole.
func TestSteadyWriterLong(t *testing.T) {
	r, f := stalled(t, false)
	w := &steadyWriter{put: steadily(f)}
	long := strings.Repeat("x", 3*maxLogLine) + "\n"
	fmt.Fprint(w, long)
	b := make([]byte, len(long))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != long {
		t.Errorf("%v, %d bytes", err, len(b))
	}
}

// TestSyslogStalled: the system log does not read.
func TestSyslogStalled(t *testing.T) {
	const messages = 5000
	address := &net.UnixAddr{Name: filepath.Join(tempDir(t), "log"), Net: "unixgram"}
	l, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialUnix("unixgram", nil, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := &syslogSocket{conn: conn}
	log := logrus.New()
	s.attach(log)
	for i := range messages {
		log.Infof("message %d", i)
	}
	if s.dropped == 0 || s.dropped == messages {
		t.Fatalf("%d of %d dropped", s.dropped, messages)
	}
	dropped := s.dropped
	b := make([]byte, maxSyslogBytes)
	for range messages - dropped {
		if _, err := l.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	log.Info("again")
	for _, want := range []string{droppedMessage(dropped), "again"} {
		n, err := l.Read(b)
		if err != nil || !strings.HasSuffix(string(b[:n]), ": "+want) {
			t.Errorf("%q, %v, want %s", b[:n], err, want)
		}
	}
}

// TestIntegrationStalledLog: the daemon serves and ends although nobody reads what it says.
func TestIntegrationStalledLog(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			_, w := stalled(t, false)
			if err := unix.SetNonblock(int(w.Fd()), true); err != nil {
				t.Fatal(err)
			}
			for _, err := w.Write(make([]byte, 4096)); err == nil; {
				_, err = unix.Write(int(w.Fd()), make([]byte, 4096))
			}
			if err := unix.SetNonblock(int(w.Fd()), false); err != nil {
				t.Fatal(err)
			}
			cmd := command(t, func(cmd *exec.Cmd) { cmd.Stderr = w },
				"--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box, "--log-level=trace")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			for deadline := time.Now().Add(30 * time.Second); inode(dir+"/s") == 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no socket")
				}
			}
			c := connect(t, dir+"/s")
			for range 100 {
				if _, err := c.Getattr(1); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			_ = cmd.Process.Signal(unix.SIGTERM)
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Error("does not end")
			}
			c.Close()
			wantNoFiles(t, dir+"/s")
		})
	}
}
