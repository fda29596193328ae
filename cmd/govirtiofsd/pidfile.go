package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// pidFile is the file PATH.pid of a socket. Its lock shows whether a daemon
// serves the socket. Its content is for programs that want to end the daemon.
type pidFile struct {
	entry
	locked *os.File
	// orphaned says that the file was there: its last owner ended without removing it.
	orphaned bool
}

// createPIDFile makes and locks the file. It fails when another daemon holds it.
// other says what to choose if it can't be there.
func createPIDFile(path, other string) (*pidFile, error) {
	for {
		p, err := tryPIDFile(path, other)
		if p != nil || err != nil {
			return p, err
		}
	}
}

// tryPIDFile returns nil and no error when the file was removed by its last owner
// between opening and locking.
func tryPIDFile(path, other string) (*pidFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, os.ErrNotExist):
		dir := filepath.Dir(path)
		return nil, fmt.Errorf("the socket's directory %s does not exist: make it (mkdir -p %s), or choose %s", dir, dir, other)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("the socket's pid file can't be made here by this user: %w", err)
	case err != nil:
		return nil, fmt.Errorf("pid file: %w", err)
	}
	if err := lockPIDFile(f); err != nil {
		f.Close()
		return nil, err
	}
	e, err := findEntry(path)
	if err == nil && !e.isFile(f) {
		e.close()
		err = os.ErrNotExist
	}
	if err != nil {
		f.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("pid file: %w", err)
	}
	fi, err := f.Stat()
	p := &pidFile{entry: *e, locked: f, orphaned: err == nil && fi.Size() > 0}
	if err := p.write(os.Getpid()); err != nil {
		p.remove()
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return p, nil
}

func lockPIDFile(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("pid file: %s is not a regular file", f.Name())
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		return fmt.Errorf("pid file: %s is locked: process %s serves this socket already", f.Name(), strings.TrimSpace(string(pid)))
	}
	if err != nil {
		return fmt.Errorf("pid file: lock %s: %w", f.Name(), err)
	}
	return nil
}

func (p *pidFile) write(pid int) error {
	if err := p.locked.Truncate(0); err != nil {
		return err
	}
	_, err := p.locked.WriteAt(fmt.Appendf(nil, "%d\n", pid), 0)
	return err
}

// remove unlinks the file and gives up the lock.
func (p *pidFile) remove() {
	p.entry.remove()
	p.locked.Close()
}
