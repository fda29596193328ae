package vfs

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Opendir implements server.FileSystem.
func (f *FS) Opendir(r *server.Request, _ *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return f.use(r, func(_ context.Context, n Node) error {
		if _, ok := As[ReadDirer](n); !ok {
			if _, ok := As[DirStreamer](n); !ok {
				return unix.ENOTDIR
			}
		}
		if err := f.opening(r, r.Header.NodeID, &openFile{handle: n}, out); err != nil {
			return err
		}
		out.OpenFlags = 0
		if f.opts.Immutable {
			out.OpenFlags = fp.FopenKeepCache | fp.FopenCacheDir
		}
		return nil
	})
}

// Releasedir implements server.FileSystem.
func (f *FS) Releasedir(r *server.Request, in *fp.ReleaseIn) unix.Errno { return f.Release(r, in) }

// Fsyncdir implements server.FileSystem.
func (f *FS) Fsyncdir(r *server.Request, in *fp.FsyncIn) unix.Errno { return f.Fsync(r, in) }

// listing is the listing of an open directory, which is read when it begins. Positions are
// indices: "." is 0, ".." is 1.
func (f *FS) listing(ctx context.Context, o *openFile, off uint64) ([]DirEntry, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.read && off > 0 {
		return o.list, nil
	}
	list, err := ReadDir(ctx, o.node.Key())
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(e DirEntry) bool { return !validName(e.Name) })
	var size int64
	for i := range list {
		size += int64(len(list[i].Name)) + 64
	}
	if more := size - o.listed; f.listed.Add(more) > f.opts.MaxListings {
		f.listed.Add(-more)
		return nil, unix.ENOMEM
	}
	o.list, o.listed, o.read = list, size, true
	return list, nil
}

// validName reports whether the client can use a name; it would refuse the whole listing.
func validName(s string) bool {
	_, rest, errno := fp.ParseName(append([]byte(s), 0))
	return errno == 0 && len(rest) == 0
}

// unknownIno is a number that stands for none (FUSE_UNKNOWN_INO of libfuse): programs leave
// entries with the number 0 out.
const unknownIno = 0xffffffff

// Readdir implements server.FileSystem.
func (f *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		return f.entries(ctx, o, in.Offset, func(e DirEntry, next uint64) bool {
			return out.Add(e.ino(), next, e.typ(), []byte(e.Name))
		})
	})
}

// entries calls add with the entries from a position on, until it returns false.
func (f *FS) entries(ctx context.Context, o *openFile, off uint64, add func(e DirEntry, next uint64) bool) error {
	stream, depth, ok := find[DirStreamer](o.node.Key())
	if _, whole, listed := find[ReadDirer](o.node.Key()); ok && !(listed && whole < depth) {
		return f.stream(ctx, o.node.Key(), stream, depth, off, add)
	}
	list, err := f.listing(ctx, o, off)
	if err != nil {
		return err
	}
	for i := off; i < uint64(len(list))+dots && add(entryAt(list, i), i+1); i++ {
	}
	return nil
}

// stream is entries for a DirStreamer: its positions are behind those of "." and "..".
func (f *FS) stream(ctx context.Context, dir Node, s DirStreamer, depth int, off uint64, add func(e DirEntry, next uint64) bool) error {
	for ; off < dots; off++ {
		if !add(entryAt(nil, off), off+1) {
			return nil
		}
	}
	return s.ReadDirFrom(ctx, off-dots, func(e DirEntry, next uint64) bool {
		if !validName(e.Name) {
			return true
		}
		e.Node = rewrap(dir, depth, e.Name, e.Node)
		return next <= maxPosition && add(e, next+dots)
	})
}

// maxPosition is the largest position of a DirStreamer: those of the client's programs have a sign.
const maxPosition = 1 << 62

// dots are "." and "..".
const dots = 2

// entryAt is the entry at a position.
func entryAt(list []DirEntry, i uint64) DirEntry {
	if i < dots {
		return DirEntry{Name: ".."[:i+1], Type: FileMode(unix.S_IFDIR)}
	}
	return list[i-dots]
}

func (e *DirEntry) ino() uint64 {
	if e.Ino == 0 {
		return unknownIno
	}
	return e.Ino
}

func (e *DirEntry) typ() uint32 { return server.ModeOf(e.Type) & unix.S_IFMT >> 12 }

// Readdirplus implements server.FileSystem.
func (f *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		return f.entries(ctx, o, in.Offset, func(e DirEntry, next uint64) bool {
			if !out.Fits(len(e.Name)) {
				return false
			}
			f.addPlus(ctx, r, o.node.Key(), next, e, out)
			return true
		})
	})
}

// addPlus adds an entry that fits; next is the position behind it. An entry that can't be looked up has a name only: the client then
// asks for it, and gets the error.
func (f *FS) addPlus(ctx context.Context, r *server.Request, dir Node, next uint64, e DirEntry, out *server.DirWriter) {
	var entry fp.EntryOut
	if next > dots {
		n, err := e.Node, error(nil)
		if n == nil {
			n, err = Lookup(ctx, dir, e.Name)
		}
		if err == nil {
			err = f.answer(ctx, r, n, &entry)
		}
		if err != nil {
			entry = fp.EntryOut{}
		}
	}
	if entry.NodeID != 0 {
		e.Ino = entry.Attr.Ino
	}
	out.AddPlus(&entry, e.ino(), next, e.typ(), []byte(e.Name))
}
