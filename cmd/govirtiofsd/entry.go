package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// entry is a file that the daemon has made and is going to remove. It is found
// again after a change of the root directory, and is left alone when somebody has
// put another file in its place.
type entry struct {
	dir      int // O_PATH
	name     string
	dev, ino uint64
}

// findEntry takes hold of the file at path.
func findEntry(path string) (*entry, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	e := &entry{dir: dir, name: filepath.Base(path)}
	st, err := e.stat()
	if err != nil {
		e.close()
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	e.dev, e.ino = st.Dev, st.Ino
	return e, nil
}

func (e *entry) stat() (*unix.Stat_t, error) {
	st := &unix.Stat_t{}
	return st, unix.Fstatat(e.dir, e.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (e *entry) isFile(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Dev == e.dev && st.Ino == e.ino
}

// remove unlinks the file, if it still is the one that was found, and lets go.
func (e *entry) remove() {
	if st, err := e.stat(); err == nil && st.Dev == e.dev && st.Ino == e.ino {
		_ = unix.Unlinkat(e.dir, e.name, 0)
	}
	e.close()
}

func (e *entry) close() { _ = unix.Close(e.dir) }
