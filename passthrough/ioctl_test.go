package passthrough

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func (g *guest) ioctl(node, fh uint64, cmd uint32, data []byte, room int) ([]byte, unix.Errno) {
	dst := make([]byte, room)
	n, errno := g.fs.Ioctl(g.on(node), &fp.IoctlIn{Fh: fh, Cmd: cmd}, data, &fp.IoctlOut{}, dst)
	return dst[:n], errno
}

func TestIoctl(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, 0).guest()
	file, fh := g.openName("f", "x", unix.O_RDWR)
	dirFh := g.open(fp.RootID, unix.O_DIRECTORY)
	if _, errno := g.ioctl(file, fh, fsIocGetflags, nil, 4); errno == unix.ENOTTY || errno == unix.EOPNOTSUPP {
		t.Skip(errno)
	}
	const nodump, noatime = 0x40, 0x80
	for _, c := range []struct{ node, fh uint64 }{{file, fh}, {fp.RootID, dirFh}} {
		for _, cmds := range [][2]uint32{{fsIocGetflags, fsIocSetflags}, {fsIoc32Getflags, fsIoc32Setflags}} {
			b, errno := g.ioctl(c.node, c.fh, cmds[0], nil, 4)
			if errno != 0 || len(b) != 4 {
				t.Fatalf("%x, %v", b, errno)
			}
			flags := binary.NativeEndian.Uint32(b) ^ nodump
			_, errno = g.ioctl(c.node, c.fh, cmds[1], binary.NativeEndian.AppendUint32(nil, flags), 0)
			wantErrno(t, "set flags", errno, 0)
			b, _ = g.ioctl(c.node, c.fh, cmds[0], nil, 8)
			if got := binary.NativeEndian.Uint32(b); got != flags {
				t.Errorf("flags %#x, want %#x", got, flags)
			}
			_, errno = g.ioctl(c.node, c.fh, cmds[1], binary.NativeEndian.AppendUint32(nil, flags^projinherit), 0)
			wantErrno(t, "change of the project", errno, unix.EINVAL)
		}
		x, errno := g.ioctl(c.node, c.fh, fsIocFsgetxattr, nil, fsxattrSize)
		wantErrno(t, "get fsxattr", errno, 0)
		x[0] ^= noatime &^ nodump & 0x40 // FS_XFLAG_NOATIME
		_, errno = g.ioctl(c.node, c.fh, fsIocFssetxattr, x, 0)
		wantErrno(t, "set fsxattr", errno, 0)
		binary.NativeEndian.PutUint32(x[fsxProjid:], 77)
		_, errno = g.ioctl(c.node, c.fh, fsIocFssetxattr, x, 0)
		wantErrno(t, "change of the project", errno, unix.EINVAL)
	}
}

func TestIoctlRefused(t *testing.T) {
	g := newShare(t, func(c *Config) { c.ReadOnly = true }, 0).guest()
	node, fh := g.openName("f", "x", unix.O_RDONLY)
	for _, cmd := range []uint32{fsIocSetflags, fsIoc32Setflags, fsIocFssetxattr} {
		_, errno := g.ioctl(node, fh, cmd, make([]byte, 64), 0)
		wantErrno(t, "set on a read-only share", errno, unix.EROFS)
	}
	g.fs.cfg.ReadOnly = false
	for _, c := range []struct {
		cmd        uint32
		data, room int
		want       unix.Errno
	}{
		{fsIocGetflags, 0, 3, unix.EINVAL},
		{fsIocSetflags, 3, 0, unix.EINVAL},
		{fsIocFsgetxattr, 0, 27, unix.EINVAL},
		{fsIocFssetxattr, 27, 0, unix.EINVAL},
		{0x40049409, 4, 0, unix.ENOTTY},   // FICLONE: its argument is a descriptor
		{0xc0185879, 24, 24, unix.ENOTTY}, // FITRIM
		{unix.TIOCSTI, 1, 0, unix.ENOTTY},
		{0, 0, 0, unix.ENOTTY},
	} {
		_, errno := g.ioctl(node, fh, c.cmd, make([]byte, c.data), c.room)
		wantErrno(t, "ioctl", errno, c.want)
	}
	_, errno := g.ioctl(node, 12345, fsIocGetflags, nil, 4)
	wantErrno(t, "forged fh", errno, unix.EBADF)
}
