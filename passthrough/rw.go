package passthrough

import (
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hostPage is the unit in which the page cache has data or has not.
const hostPage = 4096

// Read implements server.Files. Data that is in memory is read at once, with one
// system call; what must come from a disk is left to a thread that may wait.
func (fs *FS) Read(r *server.Request, in *fp.ReadIn, dst []unix.Iovec) (int, unix.Errno) {
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseHandle(h)
	if in.Offset > math.MaxInt64 || in.Offset+uint64(in.Size) > math.MaxInt64 {
		return 0, unix.EINVAL
	}
	flags := 0
	if !r.MayWait && !h.noWait.Load() {
		flags = unix.RWF_NOWAIT
	}
	done, off := 0, int64(in.Offset)
	for len(dst) > 0 {
		n, errno := vectored(unix.SYS_PREADV2, h.fd, dst[:min(len(dst), maxIovecs)], off+int64(done), flags)
		switch {
		case errno == unix.EAGAIN && flags != 0:
			return 0, server.WouldBlock
		case (errno == unix.EOPNOTSUPP || errno == unix.EINVAL) && flags != 0:
			h.noWait.Store(true) // this file system can't say whether it would wait
			flags = 0
			continue
		case errno != 0 && done > 0:
			return done, 0
		case errno != 0:
			return 0, errno
		}
		done += n
		// A short read ends at the end of the file, or where the page cache ends;
		// the latter is a page boundary.
		if n == 0 || done == int(in.Size) || (off+int64(done))%hostPage != 0 {
			break
		}
		dst = skip(dst, n)
	}
	return done, 0
}

// skip is the buffers after the first n bytes. It changes dst, which is the
// request's own list.
func skip(dst []unix.Iovec, n int) []unix.Iovec {
	for len(dst) > 0 && uint64(n) >= dst[0].Len {
		n -= int(dst[0].Len)
		dst = dst[1:]
	}
	if n > 0 && len(dst) > 0 {
		dst[0].Base = addBytes(dst[0].Base, n)
		dst[0].SetLen(int(dst[0].Len) - n)
	}
	return dst
}

// Write implements server.Files.
func (fs *FS) Write(r *server.Request, in *fp.WriteIn, src []unix.Iovec) (int, unix.Errno) {
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseHandle(h)
	if in.Offset > math.MaxInt64 || in.Offset+uint64(in.Size) > math.MaxInt64 {
		return 0, unix.EINVAL
	}
	ts := threadOf(r)
	fs.setFsetid(ts, in.WriteFlags&fp.WriteKillSuidgid == 0)
	done, off := 0, int64(in.Offset)
	for len(src) > 0 {
		n, errno := vectored(unix.SYS_PWRITEV2, h.fd, src[:min(len(src), maxIovecs)], off+int64(done), 0)
		if errno != 0 && done == 0 {
			return 0, errno
		}
		if errno != 0 || n == 0 {
			break
		}
		done += n
		if done == int(in.Size) {
			break
		}
		src = skip(src, n)
	}
	return done, 0
}
