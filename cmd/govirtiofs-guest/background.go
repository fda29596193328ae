package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// backgroundEnv tells a process that it is the one that stays. It says by the pipe at
// descriptor readyFD that it has mounted, or why not.
const (
	backgroundEnv = "GOVIRTIOFS_GUEST_BACKGROUND"
	readyFD       = 3

	readyWord = "mounted"
)

func inBackground() bool {
	_, ok := os.LookupEnv(backgroundEnv)
	return ok
}

// startBackground starts this program again, in a session of its own, and waits until it
// has mounted and answers.
func (o *mountOptions) startBackground() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// A process whose name begins with @ is left alone when systemd ends all others at shutdown:
	// the root file system may be the share.
	cmd := exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"@" + os.Args[0]}, os.Args[1:]...),
		Env: append(os.Environ(), backgroundEnv+"=1"), Stdin: null, Stdout: null, Stderr: null, ExtraFiles: []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	err = cmd.Start()
	_ = w.Close()
	_ = null.Close()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	said, err := bufio.NewReader(r).ReadString('\n')
	said = strings.TrimSpace(said)
	switch {
	case said == readyWord:
		return o.answers(&cmd)
	case said != "":
		return errors.New(said)
	}
	return fmt.Errorf("the process in the background has ended without a message: %w", errors.Join(cmd.Wait(), noEOF(err)))
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// answers asks the share something, so that it is in use when the command returns.
func (o *mountOptions) answers(cmd *exec.Cmd) error {
	var st unix.Statfs_t
	switch err := unix.Statfs(o.dir, &st); {
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNABORTED):
		_ = cmd.Process.Signal(unix.SIGTERM)
		return fmt.Errorf("%s was mounted, but the host does not answer: %w", o.dir, err)
	}
	return nil // any other error is an answer, too
}

// background is startBackground's other process.
func (o *mountOptions) background() error {
	_ = os.Unsetenv(backgroundEnv)
	_ = os.Chdir("/") // does not block an umount
	ready := os.NewFile(readyFD, "pipe of readiness")
	unix.CloseOnExec(readyFD)
	tell := func(s string) {
		_, _ = fmt.Fprintln(ready, strings.ReplaceAll(s, "\n", " "))
		_ = ready.Close()
	}
	log := kernelLog()
	isMounted := false
	err := o.serve(log, func() { isMounted = true; tell(readyWord) })
	switch {
	case err == nil:
	case isMounted:
		log.Error(err.Error())
	default:
		tell(err.Error())
	}
	return err
}

func consoleLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// kernelLog writes to the kernel's log, which is there before and after every other one.
func kernelLog() *slog.Logger {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&kernelHandler{f: f})
}

// kernelHandler writes one record a message, as /dev/kmsg wants it.
type kernelHandler struct{ f io.Writer }

func (*kernelHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h *kernelHandler) WithAttrs([]slog.Attr) slog.Handler         { return h }
func (h *kernelHandler) WithGroup(string) slog.Handler              { return h }

func (h *kernelHandler) Handle(_ context.Context, r slog.Record) error {
	priority := 6 // LOG_INFO
	switch {
	case r.Level >= slog.LevelError:
		priority = 3
	case r.Level >= slog.LevelWarn:
		priority = 4
	}
	_, err := fmt.Fprintf(h.f, "<%d>govirtiofs-guest: %s\n", priority, r.Message)
	return err
}
