package server

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// These help a file system that is written over Go's own packages: they convert the
// errors, attributes and listings of io/fs to those of the protocol.

// Errno is the error number that says what err says: the unix.Errno in its chain if it has
// one, else the one of the error of io/fs, os or context that it is. nil is 0. EIO is for
// errors that say nothing to a client.
func Errno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	for _, e := range ioErrors {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return unix.EIO
}

var ioErrors = [...]struct {
	err   error
	errno unix.Errno
}{
	{fs.ErrNotExist, unix.ENOENT},
	{fs.ErrExist, unix.EEXIST},
	{fs.ErrPermission, unix.EACCES},
	{fs.ErrInvalid, unix.EINVAL},
	{fs.ErrClosed, unix.EBADF},
	{errors.ErrUnsupported, unix.EOPNOTSUPP},
	{context.Canceled, unix.EINTR},
	{context.DeadlineExceeded, unix.ETIMEDOUT},
	{os.ErrDeadlineExceeded, unix.ETIMEDOUT},
}

// AttrOf are the attributes that info says: kind, permissions, size and time of
// modification, which is also the time of the last access and change. A time that is not
// known (the zero time.Time) is the start of 1970. The file belongs to root and has one link. ino is the inode number, by which programs tell files apart.
func AttrOf(ino uint64, info fs.FileInfo) fp.Attr {
	size := uint64(max(info.Size(), 0))
	var sec uint64
	var nsec uint32
	if t := info.ModTime(); !t.IsZero() {
		sec, nsec = uint64(t.Unix()), uint32(t.Nanosecond())
	}
	return fp.Attr{
		Ino: ino, Mode: ModeOf(info.Mode()), Nlink: 1,
		Size: size, Blocks: (size + 511) / 512, Blksize: pageSize,
		Atime: sec, Mtime: sec, Ctime: sec, AtimeNsec: nsec, MtimeNsec: nsec, CtimeNsec: nsec,
	}
}

// ModeOf is the mode that the client knows (st_mode of stat(2)).
func ModeOf(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range modeBits {
		if m&b.bit != 0 {
			mode |= b.mode
		}
	}
	switch {
	case m.IsRegular():
		mode |= unix.S_IFREG
	case m.IsDir():
		mode |= unix.S_IFDIR
	case m&fs.ModeSymlink != 0:
		mode |= unix.S_IFLNK
	case m&fs.ModeNamedPipe != 0:
		mode |= unix.S_IFIFO
	case m&fs.ModeSocket != 0:
		mode |= unix.S_IFSOCK
	case m&fs.ModeCharDevice != 0:
		mode |= unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		mode |= unix.S_IFBLK
	}
	return mode
}

var modeBits = [...]struct {
	bit  fs.FileMode
	mode uint32
}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}}

// unknownIno is the inode number in a listing of a file whose number is not known
// (FUSE_UNKNOWN_INO of libfuse). A program would leave out an entry with the number 0.
const unknownIno = 0xffffffff

// AddList appends the entries of list from position off on, as many as fit. The position of
// an entry is its index in list, which must be the same for the whole listing. Inode
// numbers are not known.
func (w *DirWriter) AddList(off uint64, list []fs.DirEntry) {
	for i := off; i < uint64(len(list)); i++ {
		typ := ModeOf(list[i].Type()) & unix.S_IFMT >> 12
		if !w.Add(unknownIno, i+1, typ, []byte(list[i].Name())) {
			return
		}
	}
}
