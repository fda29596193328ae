// Package token reads the secret that a guest and its host share.
package token

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Sizes of a token in bytes, without white space at its end.
const (
	Min = 16
	Max = 1024
)

// Read returns the content of the file, without white space at its end. The file must be a
// regular file. Root or this process's user must own it, and no other user may be able to read
// or change it: otherwise it is not a secret.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a regular file", path)
	case st.Mode&0o077 != 0:
		return nil, fmt.Errorf("%s: others may read or change it (mode %04o): chmod 600 %s", path, st.Mode&0o7777, path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to user %d: chown root %s", path, st.Uid, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 2*Max))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b = bytes.TrimRight(b, " \t\r\n")
	if len(b) < Min || len(b) > Max {
		return nil, fmt.Errorf("%s has %d bytes: want %d to %d", path, len(b), Min, Max)
	}
	return b, nil
}
