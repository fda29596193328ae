package tree

import (
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// size is how many bytes a file has.
func (e *entry) size() uint64 {
	if e.content == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return uint64(max(e.content.Size(), 0))
}

// answer fills in the attributes. t.mu is not held.
func (t *FS) answer(e *entry, out *fp.Attr) {
	size := e.size()
	t.mu.Lock()
	defer t.mu.Unlock()
	*out = e.attr
	out.Size, out.Blocks = size, size/512+min(size%512, 1)
}

// found answers with the node of the entry that find returns, and counts the lookup.
func (t *FS) found(r *server.Request, out *fp.EntryOut, find func(dir *entry) (*entry, error)) unix.Errno {
	return t.use(r, func(dir *entry) error {
		n, err := t.internFound(dir, find)
		if err != nil {
			return err
		}
		defer t.nodes.Release(n)
		out.NodeID = n.ID()
		t.answer(n.Key(), &out.Attr)
		return nil
	})
}

// internFound is the client's node of what find returns, to be released.
func (t *FS) internFound(dir *entry, find func(dir *entry) (*entry, error)) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, err := find(dir)
	if err != nil {
		return nil, err
	}
	n := t.intern(e)
	if n == nil {
		return nil, unix.ENFILE // there is no id left
	}
	return n, nil
}

// Lookup implements server.FileSystem.
func (t *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return t.found(r, out, func(dir *entry) (*entry, error) {
		if e := dir.names[name.String()]; e != nil {
			return e, nil
		}
		return nil, unix.ENOENT
	})
}

// Forget implements server.FileSystem.
func (t *FS) Forget(by *fuse.Cell, nodeID, nlookup uint64) {
	if n := t.nodes.Acquire(nodeID); n != nil {
		t.nodes.Forget(by, n, nlookup)
		t.nodes.Release(n)
	}
}

// Destroy implements server.FileSystem.
func (t *FS) Destroy() {
	for n := range t.nodes.All {
		t.Forget(nil, n.ID(), math.MaxUint64)
	}
}

// create makes an entry for the client.
func (t *FS) create(r *server.Request, name fp.Name, mode uint32, out *fp.EntryOut) unix.Errno {
	if t.config.NewFile == nil {
		return unix.EROFS
	}
	return t.found(r, out, func(dir *entry) (*entry, error) {
		switch {
		case dir.names == nil:
			return nil, unix.ENOTDIR
		case dir.attr.Nlink == 0:
			return nil, unix.ENOENT
		case dir.names[name.String()] != nil:
			return nil, unix.EEXIST
		}
		var content func() Content
		if mode&unix.S_IFMT == unix.S_IFREG {
			content = func() Content { return t.config.NewFile() }
		}
		e, err := t.newEntry(mode, r.Header.UID, r.Header.GID, content)
		if err == nil {
			e.insert(dir, name.String())
		}
		return e, err
	})
}

// Mkdir implements server.FileSystem.
func (t *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return t.create(r, name, unix.S_IFDIR|in.Mode&0o1777, out)
}

// Create implements server.FileSystem.
func (t *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return t.create(r, name, unix.S_IFREG|in.Mode&0o7777, &out.Entry)
}

// remove takes an entry away from its directory.
func (t *FS) remove(r *server.Request, name fp.Name, directory bool) unix.Errno {
	if t.config.NewFile == nil {
		return unix.EROFS
	}
	return t.use(r, func(dir *entry) error {
		t.mu.Lock()
		e := dir.names[name.String()]
		if err := removable(e, directory); err != nil {
			t.mu.Unlock()
			return err
		}
		end := t.unlink(e)
		t.mu.Unlock()
		end()
		return nil
	})
}

// removable says why an entry can't be removed as a directory, or as none.
func removable(e *entry, directory bool) error {
	switch {
	case e == nil:
		return unix.ENOENT
	case directory && e.names == nil:
		return unix.ENOTDIR
	case !directory && e.names != nil:
		return unix.EISDIR
	case len(e.names) > 0:
		return unix.ENOTEMPTY
	}
	return nil
}

// unlink removes e; what it returns is called without t.mu. t.mu is held.
func (t *FS) unlink(e *entry) func() {
	e.take()
	e.attr.Nlink = 0
	return t.ended(e)
}

// Unlink implements server.FileSystem.
func (t *FS) Unlink(r *server.Request, name fp.Name) unix.Errno { return t.remove(r, name, false) }

// Rmdir implements server.FileSystem.
func (t *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno { return t.remove(r, name, true) }

// Rename implements server.FileSystem. Of the flags it knows RENAME_NOREPLACE.
func (t *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	if t.config.NewFile == nil {
		return unix.EROFS
	}
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return unix.EINVAL
	}
	n := t.nodes.Acquire(in.NewDir)
	if n == nil {
		return unix.ESTALE
	}
	defer t.nodes.Release(n)
	return t.use(r, func(dir *entry) error {
		t.mu.Lock()
		end, err := t.move(dir, oldName.String(), n.Key(), newName.String(), in.Flags != 0)
		t.mu.Unlock()
		if err == nil {
			end()
		}
		return err
	})
}

// move renames; what it returns is called without t.mu. t.mu is held.
func (t *FS) move(from *entry, oldName string, to *entry, newName string, keep bool) (end func(), err error) {
	e, old := from.names[oldName], to.names[newName]
	end = func() {}
	switch {
	case e == nil || to.attr.Nlink == 0:
		return nil, unix.ENOENT
	case to.names == nil:
		return nil, unix.ENOTDIR
	case old != nil && keep:
		return nil, unix.EEXIST
	case old == e:
		return end, nil
	}
	for above := to; above != nil; above = above.parent {
		if above == e {
			return nil, unix.EINVAL // below itself
		}
	}
	if old != nil {
		if err := removable(old, e.names != nil); err != nil {
			return nil, err
		}
		end = t.unlink(old)
	}
	e.take()
	e.insert(to, newName)
	return end, nil
}

// Getattr implements server.FileSystem.
func (t *FS) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return t.use(r, func(e *entry) error {
		t.answer(e, &out.Attr)
		return nil
	})
}

// Setattr implements server.FileSystem.
func (t *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	if t.config.NewFile == nil && in.Valid&fp.FattrSize == 0 {
		return unix.EROFS
	}
	return t.use(r, func(e *entry) error {
		if in.Valid&fp.FattrSize != 0 {
			if err := t.truncate(e, in.Size); err != nil {
				return err
			}
		}
		t.mu.Lock()
		e.set(in)
		t.mu.Unlock()
		t.answer(e, &out.Attr)
		return nil
	})
}

// set sets what is in the attributes.
func (e *entry) set(in *fp.SetattrIn) {
	a, now := &e.attr, time.Now()
	if in.Valid&fp.FattrMode != 0 {
		a.Mode = a.Mode&unix.S_IFMT | in.Mode&0o7777
	}
	if in.Valid&fp.FattrUID != 0 {
		a.UID = in.UID
	}
	if in.Valid&fp.FattrGID != 0 {
		a.GID = in.GID
	}
	sec, nsec := uint64(now.Unix()), uint32(now.Nanosecond())
	switch {
	case in.Valid&fp.FattrAtimeNow != 0:
		a.Atime, a.AtimeNsec = sec, nsec
	case in.Valid&fp.FattrAtime != 0:
		a.Atime, a.AtimeNsec = in.Atime, in.AtimeNsec
	}
	switch {
	case in.Valid&fp.FattrMtimeNow != 0:
		a.Mtime, a.MtimeNsec = sec, nsec
	case in.Valid&fp.FattrMtime != 0:
		a.Mtime, a.MtimeNsec = in.Mtime, in.MtimeNsec
	}
	a.Ctime, a.CtimeNsec = sec, nsec
}

// change calls do with e's content, and says that it has changed.
func (t *FS) change(e *entry, do func(w Writable) error) error {
	w, err := e.writable()
	if err != nil {
		return err
	}
	defer func() { // after e.mu
		t.mu.Lock()
		defer t.mu.Unlock()
		e.touch()
	}()
	e.mu.Lock()
	defer e.mu.Unlock() // also if the content panics
	return do(w)
}

func (t *FS) truncate(e *entry, size uint64) error {
	if size > math.MaxInt64 {
		return unix.EFBIG
	}
	return t.change(e, func(w Writable) error { return w.Truncate(int64(size)) })
}

// Open implements server.FileSystem.
func (t *FS) Open(r *server.Request, in *fp.OpenIn, _ *fp.OpenOut) unix.Errno {
	return t.use(r, func(e *entry) error {
		if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			if _, err := e.writable(); err != nil {
				return err
			}
		}
		if in.Flags&unix.O_TRUNC != 0 {
			return t.truncate(e, 0)
		}
		return nil
	})
}

// Release implements server.FileSystem.
func (t *FS) Release(*server.Request, *fp.ReleaseIn) unix.Errno { return 0 }

// Read implements server.FileSystem.
func (t *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (n int, _ unix.Errno) {
	errno := t.use(r, func(e *entry) (err error) {
		if e.content == nil {
			return unix.EISDIR
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		n, err = dst.Fill(e.content, in.Offset)
		return err
	})
	return n, errno
}

// Write implements server.FileSystem. The data is copied first: the client can change it.
func (t *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (n int, _ unix.Errno) {
	if in.Offset > math.MaxInt64-src.Len() {
		return 0, unix.EFBIG
	}
	data := make([]byte, src.Len())
	data = data[:src.CopyTo(data, 0)]
	errno := t.use(r, func(e *entry) error {
		return t.change(e, func(w Writable) (err error) {
			n, err = w.WriteAt(data, int64(in.Offset))
			return err
		})
	})
	if n > 0 {
		return n, 0 // the next WRITE says what is wrong
	}
	return 0, errno
}

// Opendir implements server.FileSystem.
func (t *FS) Opendir(r *server.Request, _ *fp.OpenIn, _ *fp.OpenOut) unix.Errno {
	return t.locked(r, func(e *entry) error {
		if e.names == nil {
			return unix.ENOTDIR
		}
		return nil
	})
}

// Releasedir implements server.FileSystem.
func (t *FS) Releasedir(*server.Request, *fp.ReleaseIn) unix.Errno { return 0 }

// Readdir implements server.FileSystem. The position of an entry is its inode number, so that
// a listing misses nothing when other entries come and go.
func (t *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return t.locked(r, func(dir *entry) error {
		i, there := slices.BinarySearchFunc(dir.list, in.Offset, byIno)
		if there {
			i++
		}
		for _, e := range dir.list[i:] {
			if !out.Add(e.attr.Ino, e.attr.Ino, e.attr.Mode&unix.S_IFMT>>12, []byte(e.name)) {
				break
			}
		}
		return nil
	})
}

// Statfs implements server.FileSystem: the tree knows how many files there may be, and not
// how much is in them.
func (t *FS) Statfs(r *server.Request, out *fp.Kstatfs) unix.Errno {
	return t.locked(r, func(*entry) error {
		out.Bsize, out.Frsize, out.NameLen = 4096, 4096, fp.NameMax
		out.Files, out.Ffree = uint64(t.config.MaxFiles), uint64(t.config.MaxFiles-t.files)
		return nil
	})
}
