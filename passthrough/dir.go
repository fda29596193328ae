package passthrough

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Opendir implements server.Directories.
func (fs *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	if fs.openless.agreed.Load() {
		return unix.ENOSYS
	}
	ts, n, fd, errno := fs.enterDir(r, intentRead)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	if errno := fs.fds.keep(); errno != 0 {
		return errno
	}
	return fs.fds.unkeepOn(fs.openFiles.openDir(ts, n, fd, in.Flags, out))
}

// openDir is the part of OPENDIR that opens the directory behind fd.
func (t *openTable) openDir(ts *threadState, n *inode, fd int, flags uint32, out *fp.OpenOut) unix.Errno {
	// Through the node's descriptor, as with files: the name may be a link by now.
	opened, errno := t.opener.openAgain(ts, fd, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return errno
	}
	if out.Fh, errno = t.add(ts.cell, n, opened, flags); errno != 0 {
		t.fds.close(opened)
		return errno
	}
	out.OpenFlags = t.cache.dirOpenFlags()
	return 0
}

// Releasedir implements server.Directories.
func (fs *FS) Releasedir(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	f, errno := fs.enterListing(r, in.Fh, intentClose)
	if errno != 0 {
		return releasedBefore(r, errno)
	}
	defer fs.openFiles.release(f)
	begin(r)
	return fs.openFiles.close(f)
}

// Fsyncdir implements server.Directories.
func (fs *FS) Fsyncdir(r *server.Request, in *fp.FsyncIn) unix.Errno {
	f, errno := fs.enterListing(r, in.Fh, intentSync)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	return f.fsync(r, fs.mounts.of(f.node.Key(), f.fd), in.FsyncFlags)
}

// Readdir implements server.Directories.
func (fs *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.listing.list(r, in, out, false)
}

// Readdirplus implements server.Directories.
func (fs *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.listing.list(r, in, out, true)
}

// dirBuffer is memory for getdents64: about 1000 entries with names of usual length.
type dirBuffer [32 << 10]byte

// maxDirBuffers is how many listings may keep entries between two requests: 32 MiB of them. Beyond
// that, entries that did not fit in a reply are read a second time.
const maxDirBuffers = 1024

// dirStream is where an open directory is in its directory.
type dirStream struct {
	mu  sync.Mutex // one listing at a time; guards the rest
	buf *dirBuffer // entries that were read and not delivered yet, from pos to end
	pos int
	end int
	// next is the cookie after the last entry delivered. The descriptor, or what the
	// buffer has of it, continues from there unless lost is set.
	next uint64
	lost bool
	used bool // something was read since the descriptor was last positioned

	positions dirPositions
}

// listing delivers what is in directories.
type listing struct {
	*access
	cfg     *Config
	mounts  *mountTable
	io      *ioState
	own     ownership
	entries *entries
}

// list delivers entries from in.Offset on. What the host returned and the reply has
// no room for waits in the open file's buffer for the next request, which normally
// begins right there.
func (l *listing) list(r *server.Request, in *fp.ReadIn, out *server.DirWriter, plus bool) unix.Errno {
	f, errno := l.enterListing(r, in.Fh, intentRead)
	if errno != 0 {
		return errno
	}
	defer l.openFiles.release(f)
	d := f.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.cfg.ShortPositions {
		d.positions.short = l.mounts.of(f.node.Key(), f.fd).hashes
	}
	if errno := l.io.seekDir(r, d, f.fd, in.Offset); errno != 0 {
		return errno
	}
	defer l.io.restBuffer(d)
	errno = l.deliverAll(threadOf(r), f, out, plus)
	if out.Len() > 0 {
		return 0 // the names are in the reply, with their lookup counts; the error comes with the next request
	}
	return errno
}

// deliverAll moves entries to out until that is full or the directory ends. Position
// and cookie move together, after an entry has its place in the reply: one that did not
// fit is the first of the next reply, and none comes twice.
func (l *listing) deliverAll(ts *threadState, f *openFile, out *server.DirWriter, plus bool) unix.Errno {
	d := f.dir
	for {
		if d.pos == d.end {
			// After a buffer that was not filled comes, as a rule, the end: the
			// client will ask for it, and again if there is more.
			if out.Len() > 0 && d.end < len(d.buf)/2 {
				return 0
			}
			if errno := l.io.fill(d, f.fd); errno != 0 || d.end == 0 {
				return errno
			}
		}
		e, size := parseDirent(d.buf[d.pos:d.end])
		if !l.deliver(ts, f, &e, out, plus) {
			return unix.EINVAL // which is sent only if not even one entry fits
		}
		d.pos += size
		d.next = e.off
	}
}

// seekDir goes to the position off. A listing from the start is read anew (rewinddir).
// Cookies are the host's. Some file systems use all 64 bits (NFS has the server's), while
// lseek takes 63: a cookie beyond is looked for from the start.
func (s *ioState) seekDir(r *server.Request, d *dirStream, fd int, off uint64) unix.Errno {
	off, errno := s.hostPosition(d, fd, off)
	if errno != 0 {
		return errno
	}
	if off == d.next && !d.lost && (off != 0 || !d.used) {
		return 0
	}
	search := off > math.MaxInt64
	if search && !r.MayWait {
		return server.WouldBlock // it may be a large directory
	}
	at := int64(off)
	if search {
		at = 0
	}
	d.pos, d.end, d.lost = 0, 0, true
	if _, errno := sysLseek(fd, at, unix.SEEK_SET); errno != 0 {
		return errno
	}
	d.next, d.used = uint64(at), false
	if search {
		if errno := s.findCookie(r, d, fd, off); errno != 0 {
			s.dropBuffer(d)
			return errno
		}
	}
	d.lost = false
	return 0
}

// maxSearch is how many entries findCookie reads at most: more than any real directory has. It ends
// the search in a directory that grows all the time.
const maxSearch = 64 << 20

// findCookie reads from the start to the entry whose cookie is off, and leaves the stream
// behind it. If the entry is gone so is its cookie: EINVAL, as from lseek.
func (s *ioState) findCookie(r *server.Request, d *dirStream, fd int, off uint64) unix.Errno {
	for range maxSearch {
		if d.pos == d.end {
			if isDone(r.Canceled) {
				return unix.EINTR
			}
			if errno := s.fill(d, fd); errno != 0 {
				return errno
			}
			if d.end == 0 {
				return unix.EINVAL
			}
		}
		e, size := parseDirent(d.buf[d.pos:d.end])
		d.pos += size
		if e.off == off {
			d.next = off
			return 0
		}
	}
	return unix.EINVAL
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// fill reads the next entries from the host; at the end of the directory there are
// none.
func (s *ioState) fill(d *dirStream, fd int) unix.Errno {
	if d.buf == nil {
		d.buf = s.getBuffer()
		s.dirBuffers.Add(1)
	}
	d.used = true
	n, errno := sysGetdents64(fd, d.buf[:])
	d.pos, d.end = 0, n
	if s.editDirents != nil {
		s.editDirents(d.buf[:n])
	}
	return errno
}

// restBuffer gives the buffer back if nothing waits in it, or if too many are kept.
func (s *ioState) restBuffer(d *dirStream) {
	switch {
	case d.pos == d.end:
	case s.dirBuffers.Load() <= maxDirBuffers:
		return
	default:
		d.lost = true
	}
	s.dropBuffer(d)
}

func (s *ioState) dropBuffer(d *dirStream) {
	d.pos, d.end = 0, 0
	if d.buf != nil {
		s.putBuffer(d.buf)
		d.buf = nil
		s.dirBuffers.Add(-1)
	}
}

// dirent is an entry as getdents64 returns it; name has its NUL.
type dirent struct {
	ino, off uint64
	typ      byte
	name     fp.Name
}

const direntHeader = 19 // d_ino, d_off, d_reclen, d_type

// parseDirent reads the entry at the front of b. The kernel wrote it.
func parseDirent(b []byte) (d dirent, size int) {
	size = int(binary.NativeEndian.Uint16(b[16:]))
	name := b[direntHeader:size]
	return dirent{
		ino:  binary.NativeEndian.Uint64(b),
		off:  binary.NativeEndian.Uint64(b[8:]),
		typ:  b[18],
		name: fp.Name(name[:bytes.IndexByte(name, 0)+1]),
	}, size
}

// deliver appends one entry; false when it does not fit. A name whose attributes
// can't be had (a limit, a race, a broken mount) is listed all the same: a listing is
// never short of a name.
func (l *listing) deliver(ts *threadState, f *openFile, e *dirent, out *server.DirWriter, plus bool) bool {
	name := e.name.Bytes()
	dot := len(name) == 1 && name[0] == '.'
	dotdot := len(name) == 2 && name[0] == '.' && name[1] == '.'
	if dotdot {
		e.ino = l.inoAbove(f.node, e.ino)
	}
	if !dot && !dotdot && l.allowName(f.node, e.name, listIntent(plus)) != 0 {
		return true // it is not there for the client
	}
	typ := l.own.direntType(uint32(e.typ))
	if !plus {
		return out.Add(e.ino, f.dir.positions.shown(e.off), typ, name)
	}
	if !out.Fits(len(name)) {
		return false // before a lookup that the client would not be told of
	}
	var entry fp.EntryOut
	if !dot && !dotdot {
		if l.entries.lookupLazy(ts, f.node, f.fd, e.name, &entry) != 0 {
			entry = fp.EntryOut{}
		} else if l.entries.allowFound(ts.cell, &entry) != 0 {
			return true
		}
	}
	if entry.NodeID != 0 {
		typ = entry.Attr.Mode & unix.S_IFMT >> 12
	}
	return out.AddPlus(&entry, e.ino, f.dir.positions.shown(e.off), typ, name)
}

// inoAbove is the inode number of "..". The guest must not know what is above the share, or above a
// mount in it. There it gets the number of the directory that it sees above.
func (l *listing) inoAbove(n *inode, host uint64) uint64 {
	if n.ID() == fp.RootID {
		return n.Key().ino
	}
	n.Lock()
	defer n.Unlock()
	if parent := n.Parent(); parent != nil && parent.Key().mount != n.Key().mount {
		return parent.Key().ino
	}
	return host
}
