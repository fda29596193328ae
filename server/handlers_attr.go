package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func getattr(t *thread) (int, unix.Errno) {
	v, _ := in[fp.GetattrIn](t)
	return done[fp.AttrOut](t.server.fs.Getattr(&t.request, v, out[fp.AttrOut](t)))
}

func setattr(t *thread) (int, unix.Errno) {
	v, _ := in[fp.SetattrIn](t)
	return done[fp.AttrOut](t.server.fs.Setattr(&t.request, v, out[fp.AttrOut](t)))
}

func statx(t *thread) (int, unix.Errno) {
	v, _ := in[fp.StatxIn](t)
	return done[fp.StatxOut](t.server.fs.Statx(&t.request, v, out[fp.StatxOut](t)))
}

func access(t *thread) (int, unix.Errno) {
	v, _ := in[fp.AccessIn](t)
	return 0, t.server.fs.Access(&t.request, v)
}

func readlink(t *thread) (int, unix.Errno) {
	return variable(t, unix.PathMax, func(dst []byte) (int, unix.Errno) {
		return t.server.fs.Readlink(&t.request, dst)
	})
}

func statfs(t *thread) (int, unix.Errno) {
	v, _, _ := fp.View[fp.Kstatfs](t.out)
	return done[fp.StatfsOut](t.server.fs.Statfs(&t.request, v))
}

func syncfs(t *thread) (int, unix.Errno) { return 0, t.server.fs.Syncfs(&t.request) }

// variable has f write a reply of up to size bytes. An answer that the client has
// no room for is ERANGE.
func variable(t *thread, size int, f func(dst []byte) (int, unix.Errno)) (int, unix.Errno) {
	dst := t.bulkBuf(min(size, bulkSize))
	n, errno := f(dst)
	if errno != 0 {
		return 0, errno
	}
	if n < 0 || n > len(dst) {
		return 0, unix.EIO
	}
	if uint64(outHeaderSize+n) > t.room {
		return 0, unix.ERANGE
	}
	t.reply = dst
	return n, 0
}

func setxattr(t *thread) (int, unix.Errno) {
	v := &t.setxattr
	*v = fp.SetxattrIn{}
	n := fp.CompatSetxattrInSize
	if t.session.flags&fp.InitSetxattrExt != 0 {
		n = fp.Size[fp.SetxattrIn]()
	}
	if len(t.args) < n {
		return 0, unix.EINVAL
	}
	copy(fp.Bytes(v)[:n], t.args)
	name, value, errno := fp.ParseString(t.args[n:], xattrNameMax, unix.ERANGE)
	switch {
	case errno != 0:
		return 0, errno
	case v.Size > xattrSizeMax:
		return 0, unix.E2BIG
	case uint64(v.Size) != uint64(len(value)):
		return 0, unix.EINVAL
	}
	return 0, t.server.fs.Setxattr(&t.request, v, name, value)
}

// Limits of include/uapi/linux/limits.h.
const (
	xattrNameMax = 255
	xattrSizeMax = 65536
)

func getxattr(t *thread) (int, unix.Errno) {
	v, rest := in[fp.GetxattrIn](t)
	name, _, errno := fp.ParseString(rest, xattrNameMax, unix.ERANGE)
	if errno != 0 {
		return 0, errno
	}
	return xattrReply(t, v.Size, func(dst []byte) (int, unix.Errno) {
		return t.server.fs.Getxattr(&t.request, name, dst)
	})
}

func listxattr(t *thread) (int, unix.Errno) {
	v, _ := in[fp.GetxattrIn](t)
	return xattrReply(t, v.Size, func(dst []byte) (int, unix.Errno) {
		return t.server.fs.Listxattr(&t.request, dst)
	})
}

// xattrReply answers with the length when the client asks for 0 bytes, and with the
// bytes otherwise.
func xattrReply(t *thread, size uint32, f func(dst []byte) (int, unix.Errno)) (int, unix.Errno) {
	if size > 0 {
		return variable(t, int(min(size, xattrSizeMax)), f)
	}
	if t.room < uint64(outHeaderSize+sizeGetxattrOut) {
		return 0, unix.EINVAL
	}
	n, errno := f(nil)
	clear(t.out[:sizeGetxattrOut])
	out[fp.GetxattrOut](t).Size = uint32(n)
	return sizeGetxattrOut, errno
}

const sizeGetxattrOut = 8

func removexattr(t *thread) (int, unix.Errno) {
	name, _, errno := fp.ParseString(t.args, xattrNameMax, unix.ERANGE)
	if errno != 0 {
		return 0, errno
	}
	return 0, t.server.fs.Removexattr(&t.request, name)
}
