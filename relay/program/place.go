package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// placePrefix is how the names of our directories begin in the directory for temporary files. Relays of before, which locked
// none, had another one.
const placePrefix = "govirtiofs-program-"

// place is a directory of a Program. It is locked as long as the process lives, so that one is recognised that was left behind
// by a process that was killed.
type place struct {
	path string
	lock *os.File
}

// newPlace makes one, and removes what others have left behind.
func newPlace() (*place, error) {
	if err := mayKeep(os.TempDir()); err != nil {
		return nil, err
	}
	cleanPlaces(os.TempDir())
	for {
		path, err := os.MkdirTemp("", placePrefix)
		if err != nil {
			return nil, err
		}
		f, err := lockPlace(path)
		if err == nil {
			return &place{path, f}, nil
		}
		// Another process may have found it before it was locked, and taken it for one of a process that was killed.
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(path)
			return nil, err
		}
	}
}

// mayKeep checks that others can't put something else in place of what is made in dir.
func mayKeep(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode()&0o002 != 0 && st.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("all users can remove files of others in %s: chmod +t it, or set TMPDIR to another directory", dir)
	}
	return nil
}

// lockPlace locks the directory at path, if nobody else has locked or removed it.
func lockPlace(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var own, there unix.Stat_t
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = errors.Join(unix.Fstat(fd, &own), unix.Lstat(path, &there))
	}
	if err == nil && (own.Ino != there.Ino || own.Dev != there.Dev) {
		err = fs.ErrNotExist
	}
	if err == nil && int(own.Uid) != os.Geteuid() {
		err = unix.EPERM
	}
	if err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// Names in a place.
const (
	mountName = "mount"
	emptyName = "empty"
)

// cleanPlaces removes the places of this user in dir whose processes are gone. It removes no more than what New and mount make:
// a directory may have such a name by chance.
func cleanPlaces(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, placePrefix+"*"))
	for _, path := range paths {
		f, err := lockPlace(path)
		if err != nil {
			continue
		}
		for _, name := range []string{filepath.Join(mountName, epollHack), mountName, emptyName, ""} {
			_ = os.Remove(filepath.Join(path, name))
		}
		_ = f.Close()
	}
}

func (p *place) remove() {
	_ = os.RemoveAll(p.path)
	_ = p.lock.Close()
}
