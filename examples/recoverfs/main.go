// Recoverfs shows a directory of this machine on another one, and lives on when the process that serves it dies:
// programs that use the mount wait for some milliseconds, and go on. It needs root and Linux 6.9.
//
//	recoverfs /mnt DIR
//
// The process that is started is the keeper. It mounts, holds the descriptor of /dev/fuse and a ledger, and
// starts the worker, which is this program with both descriptors. When the worker dies without having said
// that it is done, the keeper starts the next one, which takes back what the dead one was doing
// (fusedev.Mount.Recover). What is kept exactly, and what is not, is in doc/recovery.md.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// The worker's descriptors, and how it is told that it is one.
const (
	workerEnv = "RECOVERFS_WORKER" // "first" or "next"
	fuseFD    = 3
	ledgerFD  = 4
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: recoverfs MOUNTPOINT DIR")
		os.Exit(2)
	}
	run := keep
	if os.Getenv(workerEnv) != "" {
		run = work
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "recoverfs:", err)
		os.Exit(1)
	}
}

// keep mounts, and starts workers until one ends by itself: the mount is gone.
func keep(target, dir string) error {
	runtime.LockOSThread() // workers end with the thread that has started them (Pdeathsig)
	l, err := ledger.Create()
	if err != nil {
		return err
	}
	m, err := fusedev.New(target, fusedev.Options{Source: dir, Subtype: "recoverfs", AllowOther: true, Permissions: true, Ledger: l})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-end
		_ = m.End() // who has files open gets ENOTCONN
	}()
	for worker := "first"; ; worker = "next" {
		began := time.Now()
		err := start(worker, m.File(), l)
		var died *exec.ExitError
		if err == nil || !errors.As(err, &died) || died.Exited() { // it has said itself why
			return errors.Join(err, l.Close())
		}
		fmt.Fprintln(os.Stderr, "recoverfs: the worker has died:", err)
		if rest := 100*time.Millisecond - time.Since(began); rest > 0 { // one that dies at once is not to take all of the processor
			time.Sleep(rest)
		}
	}
}

// start runs a worker to its end.
func start(worker string, fuse *os.File, l *ledger.Ledger) error {
	fd, err := unix.Dup(l.FD())
	if err != nil {
		return err
	}
	notes := os.NewFile(uintptr(fd), "ledger")
	defer func() { _ = notes.Close() }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), workerEnv+"="+worker)
	cmd.ExtraFiles = []*os.File{fuse, notes}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// SIGTERM and SIGINT are the keeper's alone, which unmounts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd.Run()
}

// work serves. What a predecessor has left comes first.
func work(target, dir string) error {
	unix.CloseOnExec(fuseFD)
	unix.CloseOnExec(ledgerFD)
	l, err := ledger.Open(ledgerFD)
	if err != nil {
		return err
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.Umask(0) // the client has applied its own
	fs, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc, Xattr: true, KillprivV2: true, Ledger: l})
	if err != nil {
		return err
	}
	s := server.New(fs, server.Options{Ledger: l})
	m := fusedev.Adopt(target, os.NewFile(fuseFD, "/dev/fuse"), fusedev.Options{Ledger: l})
	if os.Getenv(workerEnv) == "next" {
		if err := m.Recover(s.Resume); err != nil {
			return err
		}
	}
	return m.Serve(s, 2)
}
