package vfs

import (
	"context"
	"io/fs"
)

// Accesser is a node that decides itself who may use it. A file system whose root is none has them
// nowhere. The client asks only if its kernel does not check permissions
// (fusedev.Options.Permissions); virtio-fs always checks them, and never asks.
type Accesser interface {
	// Access says whether the caller (CallerOf) has all of mask: unix.R_OK, W_OK and X_OK, or F_OK. The
	// error is fs.ErrPermission if not.
	Access(ctx context.Context, mask uint32) error
}

// Tmpfiler is a directory in which files without a name can be made: O_TMPFILE of open(2).
type Tmpfiler interface {
	// Tmpfile makes a regular file without a name and opens it. Linker gives it one. A nil Handle is
	// one that Open returns. The file belongs to the caller (CallerOf).
	Tmpfile(ctx context.Context, flags int, mode fs.FileMode) (Node, Handle, error)
}

// CopyReceiver is an open file that takes data of another one without the client: copy_file_range(2).
type CopyReceiver interface {
	// CopyFrom copies n bytes at srcOff of src, an open file of the same file system, to off. All are
	// in bytes. Less than n is allowed. EOPNOTSUPP has the client read and write instead.
	CopyFrom(ctx context.Context, off int64, src Handle, srcOff, n int64) (copied int64, err error)
}

// Ioctler is an open file, or a directory node, with ioctl(2). The inode flags of chattr(1) are
// ioctls, too (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS).
type Ioctler interface {
	// Ioctl does what cmd says. Direction and size of the data are in cmd (_IOR and so on of
	// asm-generic/ioctl.h): in is what the caller passes, out what it gets, of at most 64 KiB each; they
	// are another call's afterwards. arg is the address or number that the caller gave. A positive
	// result is what ioctl(2) returns. ENOTTY is for a cmd that is not known. A read-only file system
	// refuses each cmd with an in, known readers excepted.
	Ioctl(ctx context.Context, cmd uint32, arg uint64, in, out []byte) (result int32, err error)
}

// Poller is an open file that is not always ready, for poll(2), select(2) and epoll(7). It needs
// FS.Connect: without it, and so over virtio-fs, all open files are always ready.
type Poller interface {
	// Poll says which of events, unix.POLLIN and so on, are ready now; it does not wait. If none is, and wake is
	// not nil, somebody waits: Poll keeps wake, and calls it once when that may have changed. A client can have at
	// most 32 of them kept for an open file. wake does not
	// block, may be called by any goroutine, and does nothing when the file is closed.
	Poll(ctx context.Context, events uint32, wake func()) (ready uint32, err error)
}

// FSSyncer is a root whose whole file system can be put on disk: syncfs(2). The kernel asks over
// virtio-fs, and over /dev/fuse only for mounts of block devices.
type FSSyncer interface {
	SyncFS(ctx context.Context) error
}

// DirStreamer is a directory that is listed piece by piece, for those that are too large for
// ReadDirer.
type DirStreamer interface {
	// ReadDirFrom calls add with the entries behind the position pos until add returns false, or
	// there are no more. next is the position behind e, which may be any number from 1 to 1<<62 that
	// leads there as long as the directory is open. pos is 0 for the beginning, or a next.
	// A client may send any other number.
	ReadDirFrom(ctx context.Context, pos uint64, add func(e DirEntry, next uint64) bool) error
}
