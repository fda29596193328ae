package relay

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

const (
	// maxListing bounds one reply with directory entries, in bytes.
	maxListing = 64 << 10
	// maxPositions bounds how many of the program's positions all open directories keep: 8 bytes each.
	maxPositions = 8 << 20
	// nameMax is the longest name in a listing (FUSE_NAME_MAX).
	nameMax = 1024
)

// listing is how far a directory was listed. Positions of programs can be addresses, and a program can't be trusted
// with one that it has not given: the client gets 1, 2, 3, ... for them.
type listing struct {
	mu    sync.Mutex // guards the following; held while entries are turned into the client's
	count uint64     // how many positions the client has; while at is nil they are 1, 2, 3 of the program's, too
	at    []uint64   // the program's positions, the client's i at i-1
}

// position is the program's position for one of the client's.
func (d *listing) position(off uint64) (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case off == 0:
		return 0, true
	case off > d.count:
		return 0, false
	case d.at == nil:
		return off, true
	}
	return d.at[off-1], true
}

// give notes the program's position as the client's i; false if there are too many. d.mu is held.
func (d *listing) give(fs *FS, i, pos uint64) bool {
	if d.at == nil && pos == i {
		d.count = max(d.count, i)
		return true
	}
	if d.at == nil { // from now on they differ
		if n := max(d.count, i); n > maxPositions || !fs.keepPositions(int64(n)) {
			return false
		}
		d.at = make([]uint64, d.count, max(d.count, i))
		for k := range d.at {
			d.at[k] = uint64(k) + 1
		}
		d.count = max(d.count, i)
		for uint64(len(d.at)) < d.count {
			d.at = append(d.at, 0)
		}
		d.at[i-1] = pos
		return true
	}
	if i > d.count { // by more than 1 if the positions were forgotten while this was asked for
		more := i - d.count
		if more > maxPositions || !fs.keepPositions(int64(more)) {
			return false
		}
		d.count = i
		d.at = append(append(d.at, make([]uint64, more-1)...), pos)
		return true
	}
	d.at[i-1] = pos
	return true
}

func (fs *FS) keepPositions(n int64) bool {
	if fs.positions.Add(n) > maxPositions {
		fs.positions.Add(-n)
		return false
	}
	return true
}

// clear forgets all positions.
func (d *listing) clear(fs *FS) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fs.positions.Add(-int64(len(d.at)))
	d.count, d.at = 0, nil
}

func (d *listing) drop(fs *FS) { d.clear(fs) }

var listingBuffers = sync.Pool{New: func() any { return new([maxListing / 8]uint64) }}

func isDot(name []byte) bool { return string(name) == "." || string(name) == ".." }

// forEntries walks over the records of a READDIR or READDIRPLUS reply. It returns false if they are malformed; f has
// seen those before. f returns false to stop.
func forEntries(b []byte, plus bool, f func(e *fp.EntryOut, d *fp.Dirent, name []byte) bool) bool {
	head, entry := fp.Size[fp.Dirent](), 0
	if plus {
		entry = fp.Size[fp.EntryOut]()
	}
	for len(b) > 0 {
		if len(b) < entry+head {
			return false
		}
		var e *fp.EntryOut
		if plus {
			e = (*fp.EntryOut)(pointer(b))
		}
		d := (*fp.Dirent)(pointer(b[entry:]))
		if d.NameLen == 0 || d.NameLen > nameMax || len(b)-entry-head < int(d.NameLen) {
			return false
		}
		name := b[entry+head:][:d.NameLen]
		if bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
			return false
		}
		if !f(e, d, name) {
			return true
		}
		b = b[min(fp.DirentAlign(entry+head+int(d.NameLen)), len(b)):]
	}
	return true
}

// Readdir implements server.FileSystem.
func (fs *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.list(r, fp.OpReaddir, in, out)
}

// Readdirplus implements server.FileSystem.
func (fs *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.list(r, fp.OpReaddirplus, in, out)
}

// listingOf is where the positions of an open directory are, or of a directory that needs not be open.
func (fs *FS) listingOf(n *node, f *file) *listing {
	if f != nil {
		return f.listing
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n.listing == nil {
		n.listing = new(listing)
	}
	return n.listing
}

func (fs *FS) list(r *server.Request, op fp.Opcode, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return fs.withFile(r, in.Fh, true, func(n *node, f *file) unix.Errno {
		d := fs.listingOf(n, f)
		pos, ok := d.position(in.Offset)
		if !ok {
			return unix.EINVAL
		}
		size := min(in.Size, maxListing, fs.link.Load().maxRead)
		c := fs.newCall(r, op, n)
		defer c.free()
		*bodyOf[fp.ReadIn](c) = fp.ReadIn{Offset: pos, Size: size, Flags: in.Flags}
		c.setFile(f, 0)
		buf := listingBuffers.Get().(*[maxListing / 8]uint64)
		defer listingBuffers.Put(buf)
		c.form, c.out = formBytes, bytesOf(buf)[:size]
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		return fs.translate(c, n, d, in.Offset, out)
	})
}

// translate turns the program's entries into the client's. Entries that do not get to the client are taken back.
func (fs *FS) translate(c *call, dir *node, d *listing, off uint64, out *server.DirWriter) unix.Errno {
	plus := fp.Opcode(c.header.Opcode) == fp.OpReaddirplus
	d.mu.Lock()
	defer d.mu.Unlock()
	full, added := false, 0
	ok := forEntries(c.out[:c.n], plus, func(e *fp.EntryOut, de *fp.Dirent, name []byte) bool {
		if e != nil && e.NodeID == 0 || isDot(name) {
			e = nil
		}
		if full = full || !fs.add(c.link, e, de, name, dir, d, off+1, out, plus); full {
			if e != nil {
				c.link.forget(e.NodeID, 1)
			}
			return true
		}
		off++
		added++
		return true
	})
	if !ok && added == 0 {
		return fs.lie("a directory listing that is malformed")
	}
	return 0
}

// add appends one entry with position i; false if there is no room.
func (fs *FS) add(l *link, e *fp.EntryOut, de *fp.Dirent, name []byte, dir *node, d *listing, i uint64, out *server.DirWriter, plus bool) bool {
	if !plus {
		return d.give(fs, i, de.Off) && out.Add(fs.ino(de.Ino), i, de.Type, name)
	}
	if !out.Fits(len(name)) || !d.give(fs, i, de.Off) {
		return false
	}
	var entry fp.EntryOut
	if e != nil {
		entry = *e
		n, errno := fs.entry(l, &entry, dir, append(append(make(fp.Name, 0, len(name)+1), name...), 0))
		if errno != 0 {
			entry = fp.EntryOut{} // it was taken back; the client looks it up itself
		} else {
			fs.nodes.Release(n)
		}
	}
	return out.AddPlus(&entry, fs.ino(de.Ino), i, de.Type, name)
}

// ino is an inode number in a listing, which may be the number of a node of the program's.
func (fs *FS) ino(v uint64) uint64 {
	if v>>32 == 0 {
		return v
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.byID[v]; n != nil {
		return hide(v, n)
	}
	return v
}
