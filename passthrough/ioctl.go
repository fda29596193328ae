package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// The ioctls that are served (include/uapi/linux/fs.h). The flags are 32 bits wide
// whatever the command number says, and the 32-bit numbers mean the same.
const (
	fsIocGetflags   = 0x80086601
	fsIocSetflags   = 0x40086602
	fsIoc32Getflags = 0x80046601
	fsIoc32Setflags = 0x40046602
	fsIocFsgetxattr = 0x801c581f
	fsIocFssetxattr = 0x401c5820
)

const fsxattrSize = 28

// Ioctl implements server.Files.
func (fs *FS) Ioctl(r *server.Request, in *fp.IoctlIn, data []byte, out *fp.IoctlOut, dst []byte) (int, unix.Errno) {
	var cmd uint32
	var set bool
	size := 4
	switch in.Cmd {
	case fsIocGetflags, fsIoc32Getflags:
		cmd = fsIocGetflags
	case fsIocSetflags, fsIoc32Setflags:
		cmd, set = fsIocSetflags, true
	case fsIocFsgetxattr:
		cmd, size = fsIocFsgetxattr, fsxattrSize
	case fsIocFssetxattr:
		cmd, size, set = fsIocFssetxattr, fsxattrSize, true
	default:
		return 0, unix.ENOTTY
	}
	switch {
	case set && fs.cfg.ReadOnly:
		return 0, unix.EROFS
	case set && len(data) < size, !set && len(dst) < size:
		return 0, unix.EINVAL
	}
	h, errno := fs.handle(r, in.Fh)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseHandle(h)
	// The kernel reads or writes up to 8 bytes for the flags on some architectures.
	var arg [32]byte
	if set {
		copy(arg[:size], data)
	}
	if errno := sysIoctl(h.fd, cmd, unsafe.Pointer(&arg)); errno != 0 {
		return 0, errno
	}
	if set {
		return 0, 0
	}
	return copy(dst, arg[:size]), 0
}
