package passthrough

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hostPage is the smallest unit in which the page cache has data.
const hostPage = 4096

// Read implements server.Files. Data that is in memory is read at once, with one
// system call; what must come from a disk is left to a thread that may wait.
func (fs *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	f, errno := fs.enterFile(r, in.Fh, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.openFiles.release(f)
	if in.Offset > math.MaxInt64-uint64(in.Size) {
		return 0, unix.EINVAL
	}
	if !f.goesDirect(in.Flags) {
		return fs.readPages(r, f, dst, int64(in.Offset))
	}
	if !f.mount.mayWait(r, &f.mount.reads, int64(in.Size)) {
		// Past the page cache is always a wait; RWF_NOWAIT does not end it early.
		return 0, server.WouldBlock
	}
	n, errno := f.readDisk(r, f.fd, dst, int64(in.Offset))
	if errno == unix.EINVAL && inPages(in.Offset, in.Size) {
		return fs.readPages(r, f, dst, int64(in.Offset))
	}
	return n, errno
}

// readPages is a read through the page cache.
func (fs *FS) readPages(r *server.Request, f *openFile, dst fuse.Buffers, off int64) (int, unix.Errno) {
	fd := fs.opener.cachedFD(r, f)
	if r.MayWait {
		return f.readDisk(r, fd, dst, off)
	}
	return f.read(r, fd, dst, off, !f.mount.noNowait.Load())
}

// readDisk is read that waits for the disk.
func (f *openFile) readDisk(r *server.Request, fd int, dst fuse.Buffers, off int64) (int, unix.Errno) {
	defer f.mount.reads.waitedToRead(time.Now())
	return f.read(r, fd, dst, off, false)
}

// read fills dst from off on by fd, a descriptor of the open file's. With cached it takes only data that is in
// memory, as far as the file system can tell, and else waits or answers WouldBlock.
func (f *openFile) read(r *server.Request, fd int, dst fuse.Buffers, off int64, cached bool) (done int, errno unix.Errno) {
	for len(dst) > 0 {
		batch := dst[:min(len(dst), maxIovecs)]
		want := int(batch.Len())
		var n int
		if cached {
			n, errno = readCached(fd, batch, want, off)
		} else {
			n, errno = vectored(unix.SYS_PREADV2, fd, batch, off, 0)
		}
		switch {
		case errno == unix.EAGAIN && cached:
			// The kernel has begun to read ahead (mm/filemap.c: filemap_get_pages). The
			// retry reads all of it again.
			if !f.mount.mayWait(r, &f.mount.reads, int64(want)) {
				return 0, f.mount.wouldBlock(int64(want))
			}
			if n, errno = f.readDisk(r, fd, dst, off); done > 0 {
				errno = 0
			}
			return done + n, errno
		case errno == unix.EOPNOTSUPP && cached:
			// tmpfs, FUSE, network file systems: to delay others now and then costs less than
			// another thread for each read.
			f.mount.noNowait.Store(true)
			cached = false
			continue
		case errno != 0 && done == 0:
			return 0, errno
		case errno != 0:
			return done, 0
		}
		done, off = done+n, off+int64(n)
		// A short read ends at the end of the file or where the page cache ends. The page cache
		// ends at page boundaries only. So a short read that ends elsewhere is at the end of the
		// file, and needs no second call.
		if n == 0 || n < want && off%hostPage != 0 {
			break
		}
		dst = skip(dst, n)
	}
	return done, 0
}

// Write implements server.Files.
func (fs *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (int, unix.Errno) {
	f, errno := fs.enterFile(r, in.Fh, intentWrite)
	if errno != 0 {
		return 0, errno
	}
	defer fs.openFiles.release(f)
	if in.Offset > math.MaxInt64-uint64(in.Size) {
		return 0, unix.EINVAL
	}
	flags := fs.writeFlags(in)
	if !r.MayWait && flags&(unix.RWF_DSYNC|unix.RWF_SYNC) != 0 {
		return 0, server.WouldBlock // it may have to wait for much that others have written
	}
	direct := f.writesDirect(in)
	if direct {
		if !f.mount.mayWait(r, &f.mount.reads, int64(in.Size)) {
			return 0, server.WouldBlock
		}
		defer f.mount.reads.waited(time.Now())
	}
	if errno := fs.privileges.changesData(threadOf(r), f, in.WriteFlags&fp.WriteKillSuidgid != 0); errno != 0 {
		return 0, errno
	}
	appends, before := flags&unix.RWF_APPEND != 0, 0
	if appends {
		var done bool
		if before, done, errno = fs.again.appendNext(r, f.fd, in, src); done || errno != 0 {
			return before, errno
		}
		src = skip(src, before)
	}
	fd := f.fd
	if !direct {
		fd = fs.opener.cachedFD(r, f)
	}
	n, errno := writeAll(fd, src, int64(in.Offset), flags)
	if direct && errno == unix.EINVAL && inPages(in.Offset, in.Size) {
		n, errno = writeAll(fs.opener.cachedFD(r, f), src, int64(in.Offset), flags)
	}
	f.unsynced.Add(int64(n))
	if n += before; n > 0 {
		errno = 0
	}
	if appends && errno == 0 {
		r.Cell.SetStep(n + 1)
	}
	return n, errno
}

// writeFlags are the flags of pwritev2 for the open file's flags as they are at this
// write. With O_APPEND the host finds the end of the file, so that writers in several
// guests do not overwrite each other; the guest's offset is where it believed the end
// to be. A page that comes from the guest's cache has a place of its own: it must not
// go to the end, whichever open file the guest sends it through.
func (fs *FS) writeFlags(in *fp.WriteIn) (flags int) {
	if in.WriteFlags&fp.WriteCache != 0 {
		return 0
	}
	if in.Flags&unix.O_APPEND != 0 && !fs.agreed(fp.InitWritebackCache) {
		flags |= unix.RWF_APPEND
	}
	switch {
	case in.Flags&unix.O_SYNC == unix.O_SYNC: // holds the bit of O_DSYNC too
		flags |= unix.RWF_SYNC
	case in.Flags&unix.O_DSYNC != 0:
		flags |= unix.RWF_DSYNC
	}
	return flags
}

// writeAll puts src in the file behind fd, from off on. A disk that fills up makes a short write:
// the error comes with the next one.
func writeAll(fd int, src fuse.Buffers, off int64, flags int) (done int, errno unix.Errno) {
	for len(src) > 0 {
		n, errno := vectored(unix.SYS_PWRITEV2, fd, src[:min(len(src), maxIovecs)], off, flags)
		if errno != 0 && done == 0 {
			return 0, errno
		}
		if errno != 0 || n == 0 {
			break
		}
		done, off = done+n, off+int64(n)
		src = skip(src, n)
	}
	return done, 0
}

// skip is the buffers after the first n bytes. It changes the list, which is the
// request's own, and not the buffers.
func skip(iov fuse.Buffers, n int) fuse.Buffers {
	for len(iov) > 0 && uint64(n) >= iov[0].Len {
		n -= int(iov[0].Len)
		iov = iov[1:]
	}
	if n > 0 && len(iov) > 0 {
		iov[0].Base = addBytes(iov[0].Base, n)
		iov[0].SetLen(int(iov[0].Len) - n)
	}
	return iov
}
