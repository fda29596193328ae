package passthrough

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// The ioctls that are served (include/uapi/linux/fs.h): attributes of files as chattr,
// lsattr and xfs_io use them. The flags are 32 bits wide whatever the command number
// says (fs/ioctl.c: ioctl_getflags), and the numbers of 32-bit processes mean the same.
const (
	fsIocGetflags   = 0x80086601
	fsIocSetflags   = 0x40086602
	fsIoc32Getflags = 0x80046601
	fsIoc32Setflags = 0x40046602
	fsIocFsgetxattr = 0x801c581f
	fsIocFssetxattr = 0x401c5820
)

const (
	flagsSize    = 4
	fsxattrSize  = 28 // struct fsxattr
	fsxProjid    = 12 // offset of fsx_projid
	projinherit  = 0x20000000
	fsxProjinher = 0x00000200 // FS_XFLAG_PROJINHERIT
)

// ioctlArg has room for the argument of every ioctl served.
type ioctlArg [32]byte

func (a *ioctlArg) word(at int) uint32 { return binary.NativeEndian.Uint32(a[at:]) }

// Ioctl implements server.Files.
func (fs *FS) Ioctl(r *server.Request, in *fp.IoctlIn, data []byte, _ *fp.IoctlOut, dst []byte) (int, unix.Errno) {
	switch in.Cmd {
	case fsIocGetflags, fsIoc32Getflags:
		return fs.getIoctl(r, in.Fh, fsIocGetflags, dst, flagsSize)
	case fsIocFsgetxattr:
		return fs.getIoctl(r, in.Fh, fsIocFsgetxattr, dst, fsxattrSize)
	case fsIocSetflags, fsIoc32Setflags:
		return 0, fs.setIoctl(r, in.Fh, fsIocGetflags, fsIocSetflags, data, flagsSize)
	case fsIocFssetxattr:
		return 0, fs.setIoctl(r, in.Fh, fsIocFsgetxattr, fsIocFssetxattr, data, fsxattrSize)
	}
	return 0, unix.ENOTTY
}

func (fs *FS) getIoctl(r *server.Request, fh uint64, cmd uint32, dst []byte, size int) (int, unix.Errno) {
	if len(dst) < size {
		return 0, unix.EINVAL
	}
	f, errno := fs.enterOpen(r, fh, intentStat)
	if errno != 0 {
		return 0, errno
	}
	defer fs.openFiles.release(f)
	var arg ioctlArg
	if errno := sysIoctl(f.fd, cmd, &arg); errno != 0 {
		return 0, errno
	}
	return copy(dst, arg[:size]), 0
}

// setIoctl changes attributes. The project that a file belongs to stays as it is: the
// host limits with it how much of a disk a share may use. EINVAL is what the kernel
// answers to a container that tries (fs/file_attr.c: fileattr_set_prepare).
func (fs *FS) setIoctl(r *server.Request, fh uint64, get, set uint32, data []byte, size int) unix.Errno {
	switch {
	case fs.cfg.ReadOnly:
		return unix.EROFS // the server can't tell which ioctls change something
	case len(data) < size:
		return unix.EINVAL
	}
	f, errno := fs.enterOpen(r, fh, intentSetattr)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	var old, arg ioctlArg
	copy(arg[:size], data)
	if errno := sysIoctl(f.fd, get, &old); errno != 0 {
		return errno
	}
	if changesProject(set, &old, &arg) {
		return unix.EINVAL
	}
	if errno := fs.pins.files(threadOf(r), f.node); errno != 0 { // with chattr +i nobody opens it for writing again
		return errno
	}
	return sysIoctl(f.fd, set, &arg)
}

func changesProject(set uint32, old, arg *ioctlArg) bool {
	changed := old.word(0) ^ arg.word(0)
	if set == fsIocSetflags {
		return changed&projinherit != 0
	}
	return changed&fsxProjinher != 0 || old.word(fsxProjid) != arg.word(fsxProjid)
}
