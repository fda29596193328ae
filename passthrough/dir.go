package passthrough

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Opendir implements server.Directories.
func (fs *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return errno
	}
	defer fs.release(n)
	if !n.isDir() {
		return unix.ENOTDIR
	}
	f, errno := fs.open(fs.cfg.ProcFD, procName(&ts.num, fd), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return errno
	}
	if out.Fh, errno = fs.addHandle(n, f, in.Flags); errno != 0 {
		fs.closeFD(f)
		return errno
	}
	switch fs.cfg.Cache {
	case CacheMetadata, CacheAlways:
		out.OpenFlags = fp.FopenKeepCache | fp.FopenCacheDir
	}
	return 0
}

// Releasedir implements server.Directories.
func (fs *FS) Releasedir(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	h, errno := fs.dirHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	return fs.closeHandle(h)
}

// Readdir implements server.Directories.
func (fs *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.list(r, in, out, false)
}

// Readdirplus implements server.Directories.
func (fs *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.list(r, in, out, true)
}

// dirent is an entry as getdents64 returns it; name has its NUL.
type dirent struct {
	ino, off uint64
	typ      byte
	name     fp.Name
}

const direntHeader = 19 // d_ino, d_off, d_reclen, d_type

// parseDirent reads the entry at the front of b. The kernel wrote it.
func parseDirent(b []byte) (d dirent, length int) {
	length = int(binary.NativeEndian.Uint16(b[16:]))
	name := b[direntHeader:length]
	return dirent{
		ino:  binary.NativeEndian.Uint64(b),
		off:  binary.NativeEndian.Uint64(b[8:]),
		typ:  b[18],
		name: fp.Name(name[:bytes.IndexByte(name, 0)+1]),
	}, length
}

// list delivers entries from in.Offset on. What the host returned and the reply has
// no room for waits in the handle's buffer for the next request, which normally
// begins right there.
func (fs *FS) list(r *server.Request, in *fp.ReadIn, out *server.DirWriter, plus bool) unix.Errno {
	h, errno := fs.dirHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	ts, d := threadOf(r), h.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno := d.seek(h.fd, in.Offset); errno != 0 {
		return errno
	}
	for {
		if d.pos == d.end {
			// What is there is delivered before more is read, unless it is little:
			// the client will ask again in any case.
			if out.Len() > 0 && d.end < len(d.buf)/2 {
				return 0
			}
			if errno := d.fill(h.fd); errno != 0 || d.end == 0 {
				return errno
			}
		}
		e, length := parseDirent(d.buf[d.pos:d.end])
		if !fs.deliver(ts, h, &e, out, plus) {
			if out.Len() == 0 {
				return unix.EINVAL // not even one entry fits
			}
			return 0
		}
		d.pos += length
		d.next = e.off
	}
}

// seek goes to the position off. A listing from the start is read anew.
func (d *dirStream) seek(fd int, off uint64) unix.Errno {
	if off == d.next && (off != 0 || !d.started) {
		return 0
	}
	if _, errno := sysLseek(fd, int64(off), unix.SEEK_SET); errno != 0 {
		return errno
	}
	d.pos, d.end, d.next = 0, 0, off
	return 0
}

// fill reads the next entries from the host; at the end of the directory there are
// none.
func (d *dirStream) fill(fd int) unix.Errno {
	if d.buf == nil {
		d.buf = dirBuffers.Get().(*dirBuffer)
	}
	d.started = true
	n, errno := sysGetdents64(fd, d.buf[:])
	d.pos, d.end = 0, n
	return errno
}

// deliver appends one entry; false when it does not fit. A name whose attributes
// can't be had is listed all the same: a listing is never short of a name.
func (fs *FS) deliver(ts *threadState, h *handle, e *dirent, out *server.DirWriter, plus bool) bool {
	name := e.name.Bytes()
	dots := len(name) == 1 && name[0] == '.' || len(name) == 2 && name[0] == '.' && name[1] == '.'
	if dots && h.node.id == fp.RootID {
		e.ino = h.node.key.ino // what is above the share is not the guest's to know
	}
	if !plus {
		return out.Add(e.ino, e.off, uint32(e.typ), name)
	}
	if !out.Fits(len(name)) {
		return false
	}
	var entry fp.EntryOut
	if !dots && fs.lookupLazy(ts, h.node, h.fd, e.name, &entry) != 0 {
		entry = fp.EntryOut{}
	}
	return out.AddPlus(&entry, e.ino, e.off, uint32(e.typ), name)
}
