package fuseproto

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NameMax is the longest path component in bytes, its NUL not counted
// (NAME_MAX of the kernel).
const NameMax = 255

// Name is one path component with its terminating NUL. The server has checked
// it with ParseName: not empty, not "." or "..", no '/', at most NameMax bytes.
type Name []byte

// CString is a pointer to the NUL-terminated bytes, for system calls.
func (n Name) CString() *byte { return unsafe.SliceData(n) }

// Bytes is the name without its NUL.
func (n Name) Bytes() []byte { return n[:len(n)-1] }

// String is the name without its NUL; it allocates.
func (n Name) String() string { return string(n.Bytes()) }

// ParseName splits a checked path component off the front of b. It answers
// EINVAL when b has no NUL or the name is not a single path component, and
// ENAMETOOLONG when it is longer than NameMax.
//
// This is the one place that keeps a guest's names inside their directory; it
// does not depend on any sandbox.
func ParseName(b []byte) (name Name, rest []byte, errno unix.Errno) {
	i := bytes.IndexByte(b, 0)
	switch {
	case i < 0, i == 0:
		return nil, b, unix.EINVAL
	case i > NameMax:
		return nil, b, unix.ENAMETOOLONG
	case b[0] == '.' && (i == 1 || i == 2 && b[1] == '.'):
		return nil, b, unix.EINVAL
	case bytes.IndexByte(b[:i], '/') >= 0:
		return nil, b, unix.EINVAL
	}
	return Name(b[: i+1 : i+1]), b[i+1:], 0
}

// ParseString splits a NUL-terminated string of 1 to max bytes off the front of
// b: a symbolic link's target or an extended attribute's name, which may hold
// '/'. It answers EINVAL when there is no NUL or the string is empty, and
// tooLong when it has more than max bytes.
func ParseString(b []byte, max int, tooLong unix.Errno) (s Name, rest []byte, errno unix.Errno) {
	i := bytes.IndexByte(b, 0)
	switch {
	case i < 0, i == 0:
		return nil, b, unix.EINVAL
	case i > max:
		return nil, b, tooLong
	}
	return Name(b[: i+1 : i+1]), b[i+1:], 0
}
