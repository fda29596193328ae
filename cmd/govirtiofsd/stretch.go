package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/dax/stretch"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// stretchEnv tells a process that it is the helper that makes files look longer, with
// the connection as descriptor 3 and the number of its sandbox.FilterAction as the value.
// stretchClientEnv tells the sandboxed child that there is one, with childStretch as its end.
const (
	stretchEnv       = "GOVIRTIOFSD_STRETCH"
	stretchClientEnv = "GOVIRTIOFSD_STRETCHED"
	childStretch     = 5
)

// startStretch starts the helper if there is a use for it, and returns our end of its
// connection; nil if there is none. The helper ends when all copies of that are closed.
func startStretch(o *options, log *logrus.Logger) *os.File {
	if !o.HasWindow() {
		return nil
	}
	f, err := startStretchHelper(o)
	if err != nil {
		log.WithError(err).Warn("DAX only for files of a multiple of 2 MiB, if the VMM does not map beyond the end of a file (QEMU): files of other sizes need root and Linux 6.9")
		return nil
	}
	return f
}

func startStretchHelper(o *options) (*os.File, error) {
	client, helper, err := stretch.Pair()
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(client), "stretch"), os.NewFile(uintptr(helper), "stretch helper")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"govirtiofsd: DAX helper"}
	cmd.Env = append(leanEnviron("govirtiofsd"), stretchEnv+"="+strconv.Itoa(int(o.Seccomp)))
	cmd.ExtraFiles = []*os.File{theirs}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("DAX helper: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		spawn.UntilEnded(cmd.Process) // without a thread
		_ = cmd.Wait()
		close(ended)
	}()
	theirs.Close()
	if _, err := stretch.NewClient(client); err != nil {
		ours.Close()
		<-ended
		if s := strings.TrimSpace(said.String()); s != "" {
			return nil, fmt.Errorf("DAX helper: %s", s)
		}
		return nil, err
	}
	return ours, nil
}

// runStretchHelper is the helper process; it returns the exit status. It ends with its
// connection, not by the signals that end the daemon: a terminal or a service manager
// sends those to both.
func runStretchHelper() int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	unix.CloseOnExec(3)
	filter, err := strconv.Atoi(os.Getenv(stretchEnv))
	if err == nil {
		err = serveStretch(sandbox.FilterAction(filter))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitStart
	}
	return exitOK
}

func serveStretch(filter sandbox.FilterAction) error {
	h, err := stretch.NewHelper()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Confine(); err != nil {
		return err
	}
	if !builtWithCgo { // which only tests are
		if err := sandbox.SetCapabilities([]cap.Value{cap.SYS_ADMIN}); err != nil {
			return err
		}
	}
	if err := sandbox.NoNewPrivileges(); err != nil {
		return err
	}
	if err := sandbox.Filter(sandbox.FilterOptions{Action: filter, Ioctls: stretch.Ioctls()}); err != nil {
		return err
	}
	return h.Serve(3)
}

// stretcher is the client of the helper that startStretch has started, or nil.
func stretcher(f *os.File) *stretch.Client {
	if f == nil {
		return nil
	}
	// The client has a descriptor of its own. Otherwise the finalizer of an
	// unreachable os.File could close the descriptor, whose number would then be
	// another file's.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = f.Close()
	if err != nil {
		return nil
	}
	return stretch.AdoptClient(fd)
}

// adoptStretch is our end of the helper's connection in the sandboxed child, or nil.
func adoptStretch() *os.File {
	if os.Getenv(stretchClientEnv) == "" {
		return nil
	}
	_ = os.Unsetenv(stretchClientEnv)
	unix.CloseOnExec(childStretch)
	return os.NewFile(childStretch, "stretch")
}
