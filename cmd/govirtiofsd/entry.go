package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// entry is a file that the daemon has made and is going to remove. It can be
// found after a change of the root directory. It is not removed if another
// process has replaced the file.
type entry struct {
	dir  int // O_PATH
	name string
	// file is the file itself, O_PATH. It keeps the inode, whose number could
	// otherwise be that of another file by the time the daemon ends.
	file int
}

// findEntry takes hold of the file at path.
func findEntry(path string) (*entry, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	name := filepath.Base(path)
	file, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(dir)
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &entry{dir: dir, name: name, file: file}, nil
}

// move gives the file another name in its directory, if that name is free.
func (e *entry) move(name string) error {
	err := unix.Renameat2(e.dir, e.name, e.dir, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without RENAME_NOREPLACE. A second link does not replace a file either.
		if err = unix.Linkat(e.dir, e.name, e.dir, name, 0); err == nil {
			_ = unix.Unlinkat(e.dir, e.name, 0)
		}
	}
	if err == nil {
		e.name = name
	}
	return err
}

func (e *entry) isFile(f *os.File) bool { return sameFile(e.file, int(f.Fd())) }

// isThere reports whether the name still is that of the file.
func (e *entry) isThere() bool {
	now, err := unix.Openat(e.dir, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(now)
	return sameFile(now, e.file)
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// remove unlinks the file, if it still is the same, and closes the descriptor.
func (e *entry) remove() {
	if e.isThere() {
		_ = unix.Unlinkat(e.dir, e.name, 0)
	}
	e.close()
}

func (e *entry) close() {
	_ = unix.Close(e.dir)
	_ = unix.Close(e.file)
}
