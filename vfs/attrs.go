package vfs

import (
	"context"
	"math"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Getattr implements server.FileSystem.
func (f *FS) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return f.use(r, func(ctx context.Context, n Node) error { return f.attr(ctx, r, n, out) })
}

// attr answers with the attributes of the request's node.
func (f *FS) attr(ctx context.Context, r *server.Request, n Node, out *fp.AttrOut) error {
	a, err := n.Attr(ctx)
	if err != nil {
		return err
	}
	out.AttrValid, out.AttrValidNsec = seconds(f.opts.AttrTimeout)
	a.put(r.Header.NodeID, &out.Attr)
	return nil
}

// Statx implements server.FileSystem: the attributes, and the time of birth if it is known.
func (f *FS) Statx(r *server.Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno {
	return f.use(r, func(ctx context.Context, n Node) error {
		attr, err := n.Attr(ctx)
		if err != nil {
			return err
		}
		var a fp.Attr
		attr.put(r.Header.NodeID, &a)
		out.AttrValid, out.AttrValidNsec = seconds(f.opts.AttrTimeout)
		time := func(sec uint64, nsec uint32) fp.SxTime { return fp.SxTime{Sec: int64(sec), Nsec: nsec} }
		out.Stat = fp.Statx{
			Mask: unix.STATX_BASIC_STATS, Blksize: a.Blksize, Nlink: a.Nlink, UID: a.UID, GID: a.GID, Mode: uint16(a.Mode),
			Ino: a.Ino, Size: a.Size, Blocks: a.Blocks, RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
			Atime: time(a.Atime, a.AtimeNsec), Mtime: time(a.Mtime, a.MtimeNsec), Ctime: time(a.Ctime, a.CtimeNsec),
		}
		if !attr.Btime.IsZero() {
			out.Stat.Mask |= unix.STATX_BTIME
			out.Stat.Btime = fp.SxTime{Sec: attr.Btime.Unix(), Nsec: uint32(attr.Btime.Nanosecond())}
		}
		return nil
	})
}

// Access implements server.FileSystem.
func (f *FS) Access(r *server.Request, in *fp.AccessIn) unix.Errno {
	if !f.accesses {
		return unix.ENOSYS // the client does not ask again
	}
	return f.use(r, func(ctx context.Context, n Node) error { return Access(ctx, n, in.Mask) })
}

// Setattr implements server.FileSystem.
func (f *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	return f.change(r, func(ctx context.Context, n Node) error {
		set, err := setAttr(in, time.Now())
		if err != nil {
			return err
		}
		if in.Valid&fp.FattrFh != 0 {
			o := f.acquireOpen(r, in.Fh)
			if o == nil {
				return unix.EBADF
			}
			defer f.open.Release(o)
			set.Handle = o.handle
		}
		if err := f.beforeSetattr(ctx, r, in, &set); err != nil {
			return err
		}
		if set != (SetAttr{Handle: set.Handle}) {
			if err := SetAttrOf(ctx, n, set); err != nil {
				return err
			}
		}
		return f.attr(ctx, r, n, out)
	})
}

// setAttr is what SETATTR asks for.
func setAttr(in *fp.SetattrIn, now time.Time) (set SetAttr, err error) {
	if in.Valid&fp.FattrMode != 0 {
		mode := FileMode(in.Mode & 0o7777)
		set.Mode = &mode
	}
	if in.Valid&fp.FattrUID != 0 {
		uid := in.UID
		set.UID = &uid
	}
	if in.Valid&fp.FattrGID != 0 {
		gid := in.GID
		set.GID = &gid
	}
	if in.Valid&fp.FattrSize != 0 {
		if in.Size > math.MaxInt64 {
			return set, unix.EFBIG
		}
		size := int64(in.Size)
		set.Size = &size
	}
	set.Atime = setTime(in.Valid, fp.FattrAtime, fp.FattrAtimeNow, in.Atime, in.AtimeNsec, now)
	set.Mtime = setTime(in.Valid, fp.FattrMtime, fp.FattrMtimeNow, in.Mtime, in.MtimeNsec, now)
	return set, nil
}

// setTime is the time that SETATTR asks for, or nil.
func setTime(valid, some, present uint32, sec uint64, nsec uint32, now time.Time) *time.Time {
	switch {
	case valid&present != 0:
	case valid&some != 0:
		now = time.Unix(int64(sec), int64(nsec))
	default:
		return nil
	}
	return &now
}

// Readlink implements server.FileSystem.
func (f *FS) Readlink(r *server.Request, dst []byte) (n int, _ unix.Errno) {
	errno := f.use(r, func(ctx context.Context, link Node) error {
		target, err := Readlink(ctx, link)
		if err != nil {
			return err
		}
		if len(target) > len(dst) {
			return unix.ENAMETOOLONG
		}
		n = copy(dst, target)
		return nil
	})
	return n, errno
}

// Getxattr implements server.FileSystem.
func (f *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	return f.xattr(r, dst, func(ctx context.Context, x Xattrer) ([]byte, error) {
		return x.Getxattr(ctx, name.String())
	})
}

// Listxattr implements server.FileSystem.
func (f *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	return f.xattr(r, dst, func(ctx context.Context, x Xattrer) ([]byte, error) {
		names, err := x.Listxattr(ctx)
		var list []byte
		for _, name := range names {
			list = append(append(list, name...), 0)
		}
		return list, err
	})
}

// xattr answers with a value, or with its length if dst is empty.
func (f *FS) xattr(r *server.Request, dst []byte, get func(ctx context.Context, x Xattrer) ([]byte, error)) (n int, _ unix.Errno) {
	if !f.xattrs {
		return 0, unix.ENOSYS // the client does not ask again
	}
	errno := f.use(r, func(ctx context.Context, node Node) error {
		x, ok := As[Xattrer](node)
		if !ok {
			return unix.EOPNOTSUPP
		}
		value, err := get(ctx, x)
		switch {
		case err != nil:
			return err
		case len(value) > maxXattr:
			return unix.E2BIG
		case len(dst) == 0:
			n = len(value)
		case len(value) > len(dst):
			return unix.ERANGE
		default:
			n = copy(dst, value)
		}
		return nil
	})
	return n, errno
}

// maxXattr is XATTR_SIZE_MAX and XATTR_LIST_MAX.
const maxXattr = 64 << 10

// Setxattr implements server.FileSystem.
func (f *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	return f.setXattr(r, func(ctx context.Context, x XattrSetter) error {
		defer f.capabilitySet(r, name.String())
		return x.Setxattr(ctx, name.String(), value, int(in.Flags))
	})
}

// Removexattr implements server.FileSystem.
func (f *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	return f.setXattr(r, func(ctx context.Context, x XattrSetter) error {
		return x.Removexattr(ctx, name.String())
	})
}

func (f *FS) setXattr(r *server.Request, set func(ctx context.Context, x XattrSetter) error) unix.Errno {
	if !f.xattrs {
		return unix.ENOSYS
	}
	return f.change(r, func(ctx context.Context, n Node) error {
		x, ok := As[XattrSetter](n)
		if !ok {
			return unix.EOPNOTSUPP
		}
		return set(ctx, x)
	})
}
