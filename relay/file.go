package relay

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// file is an open file or directory of the client's.
type file struct {
	nodes.OpenFile
	node    *node // held
	flags   uint32
	dir     bool
	listing *listing // of a directory

	// fh is the program's number, valid for the program that epoch counts. fh is stored first.
	fh    atomic.Uint64
	epoch atomic.Uint32

	// written counts changes, synced those that FSYNC has seen.
	written, synced atomic.Uint64

	mu     sync.Mutex // guards the following; held while the file is opened again
	locked bool       // the client has, or had, locks
	lost   bool       // a program has ended that may not have written all

	lastMu sync.Mutex   // guards the following; a leaf
	last   fp.ReleaseIn // what the client has closed it with
}

// fileGone has the program close a file. That is after the last request with it has ended in the program, whatever the
// client does: programs rely on it.
func (fs *FS) fileGone(f *file) {
	f.lastMu.Lock()
	last := f.last
	f.lastMu.Unlock()
	fs.release(fs.link.Load(), f, &last)
	if f.listing != nil {
		f.listing.drop(fs)
	}
	fs.fileCount.Add(-1)
	fs.nodes.Unhold(f.node)
}

// addFile makes the client's number of what the program has opened. On error the program has closed it again.
func (fs *FS) addFile(l *link, n *node, flags uint32, dir bool, out *fp.OpenOut) unix.Errno {
	f := &file{node: n, flags: flags, dir: dir, last: fp.ReleaseIn{Flags: flags}}
	if dir {
		f.listing = new(listing)
	}
	f.fh.Store(out.Fh)
	f.epoch.Store(l.epoch)
	if fs.fileCount.Add(1) > int64(fs.opts.MaxFiles) {
		fs.fileCount.Add(-1)
		fs.release(l, f, &fp.ReleaseIn{Flags: flags})
		return unix.ENFILE
	}
	n.Hold()
	id := fs.files.Add(nil, f)
	if id == 0 {
		fs.fileCount.Add(-1)
		fs.nodes.Unhold(n)
		fs.release(l, f, &fp.ReleaseIn{Flags: flags})
		return unix.ENFILE
	}
	out.Fh, out.BackingID = id, 0
	out.OpenFlags &= passedOpenFlags
	return 0
}

// passedOpenFlags are what an open file's flags may say to the client.
const passedOpenFlags = fp.FopenDirectIO | fp.FopenKeepCache | fp.FopenNonseekable | fp.FopenCacheDir | fp.FopenStream |
	fp.FopenNoflush | fp.FopenParallelDirectWrites

// release tells the program that an open file is closed, and waits for no answer.
func (fs *FS) release(l *link, f *file, in *fp.ReleaseIn) {
	if f.epoch.Load() != l.epoch || f.node.epoch.Load() != l.epoch && f.node.ID() != fp.RootID {
		return // it was another program's
	}
	in.Fh = f.fh.Load()
	op := fp.OpRelease
	if f.dir {
		op = fp.OpReleasedir
	}
	l.tell(op, f.node.id.Load(), fp.Bytes(in))
}

// opensNothing notes that the program answers OPEN or OPENDIR with ENOSYS, and reports whether it may: the kernel
// would have offered that it may.
func (fs *FS) opensNothing(dir bool) bool {
	flag, none := fp.InitNoOpenSupport, &fs.noOpen
	if dir {
		flag, none = fp.InitNoOpendirSupport, &fs.noOpendir
	}
	if offered&flag == 0 {
		return false
	}
	none.Store(true)
	return true
}

// withFile calls f with the request's node and open file when the request may wait. Without a file, nil, the node is
// used: the program needs none.
func (fs *FS) withFile(r *server.Request, fh uint64, dir bool, do func(n *node, f *file) unix.Errno) unix.Errno {
	if c := resumedCall(r); c != nil {
		return do(c.node, c.file)
	}
	return fs.findFile(r, fh, dir, func(n *node, f *file) unix.Errno {
		if fs.waitsFirst(r) {
			return server.WouldBlockInGo
		}
		return do(n, f)
	})
}

// findFile is withFile for what does not wait.
func (fs *FS) findFile(r *server.Request, fh uint64, dir bool, do func(n *node, f *file) unix.Errno) unix.Errno {
	n := fs.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return unix.ESTALE
	}
	defer fs.nodes.Release(n)
	f := fs.files.Acquire(fh)
	if f == nil {
		none := &fs.noOpen
		if dir {
			none = &fs.noOpendir
		}
		if fh != 0 || !none.Load() || dir != (n.kind == unix.S_IFDIR) {
			return unix.EBADF
		}
	} else {
		defer fs.files.Release(f)
		if f.node != n || f.dir != dir {
			return unix.EBADF
		}
	}
	return do(n, f)
}

// setFile puts the file in a call's body at an offset; nil is 0.
func (c *call) setFile(f *file, at int) { c.file, c.fileAt = f, at }

// Open implements server.FileSystem.
func (fs *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return fs.open(r, fp.OpOpen, in, out)
}

// Opendir implements server.FileSystem.
func (fs *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return fs.open(r, fp.OpOpendir, in, out)
}

func (fs *FS) open(r *server.Request, op fp.Opcode, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		dir := op == fp.OpOpendir
		if dir != (n.kind == unix.S_IFDIR) {
			return openErrno(dir)
		}
		c := fs.newCall(r, op, n)
		defer c.free()
		flags := in.Flags &^ (unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY)
		bodyOf[fp.OpenIn](c).Flags = flags
		c.form = formOpen
		errno := fs.ask(r, c)
		if errno == unix.ENOSYS && fs.opensNothing(dir) && !fs.clientKnows(dir) {
			// The client asks again each time. What it gets stands for the node.
			errno = 0
		}
		if errno != 0 {
			return errno
		}
		*out = *replyOf[fp.OpenOut](c)
		return fs.addFile(c.link, n, flags, dir, out)
	})
}

func openErrno(dir bool) unix.Errno {
	if dir {
		return unix.ENOTDIR
	}
	return unix.EISDIR
}

// clientKnows reports whether the client takes ENOSYS of OPEN or OPENDIR as "not needed".
func (fs *FS) clientKnows(dir bool) bool {
	flag := fp.InitNoOpenSupport
	if dir {
		flag = fp.InitNoOpendirSupport
	}
	return fp.InitFlags(fs.offered.Load())&fs.link.Load().flags&flag != 0
}

// Create implements server.FileSystem.
func (fs *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpCreate, dir)
		defer c.free()
		*bodyOf[fp.CreateIn](c) = fp.CreateIn{Flags: in.Flags, Mode: in.Mode, Umask: in.Umask}
		c.names[0], c.form = name, formMake
		return fs.made(r, c, dir, name, out)
	})
}

// Tmpfile implements server.FileSystem.
func (fs *FS) Tmpfile(r *server.Request, in *fp.CreateIn, out *fp.CreateOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpTmpfile, dir)
		defer c.free()
		*bodyOf[fp.CreateIn](c) = fp.CreateIn{Flags: in.Flags, Mode: in.Mode, Umask: in.Umask}
		c.names[0], c.form = fp.Name("/\x00"), formMake
		return fs.made(r, c, nil, nil, out)
	})
}

// made answers CREATE and TMPFILE.
func (fs *FS) made(r *server.Request, c *call, dir *node, name fp.Name, out *fp.CreateOut) unix.Errno {
	flags := bodyOf[fp.CreateIn](c).Flags
	if errno := fs.ask(r, c); errno != 0 {
		return errno
	}
	reply := replyOf[fp.CreateOut](c)
	if reply.Entry.Attr.Mode&unix.S_IFMT != unix.S_IFREG || reply.Entry.NodeID == 0 {
		fs.undo(c.link, c)
		return fs.lie("a file that is none for CREATE")
	}
	id := reply.Entry.NodeID
	n, errno := fs.entry(c.link, &reply.Entry, dir, name)
	if errno != 0 {
		in := fp.ReleaseIn{Fh: reply.Open.Fh, Flags: flags}
		c.link.tell(fp.OpRelease, id, fp.Bytes(&in))
		return errno
	}
	defer fs.nodes.Release(n)
	if errno := fs.addFile(c.link, n, flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_NOCTTY|unix.O_TRUNC), false, &reply.Open); errno != 0 {
		fs.nodes.Forget(nil, n, 1)
		return errno
	}
	*out = *reply
	return 0
}

// Release implements server.FileSystem. The open file is gone, whatever the program answers: nobody waits for that, as
// the kernel does not.
func (fs *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	return fs.releaseFile(r, in, false)
}

// Releasedir implements server.FileSystem.
func (fs *FS) Releasedir(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	return fs.releaseFile(r, in, true)
}

func (fs *FS) releaseFile(r *server.Request, in *fp.ReleaseIn, dir bool) unix.Errno {
	return fs.findFile(r, in.Fh, dir, func(_ *node, f *file) unix.Errno {
		if f == nil {
			return 0
		}
		f.lastMu.Lock() // not f.mu: this may not wait for the program
		f.last = fp.ReleaseIn{Flags: in.Flags, ReleaseFlags: in.ReleaseFlags & (fp.ReleaseFlush | fp.ReleaseFlockUnlock), LockOwner: in.LockOwner}
		f.lastMu.Unlock()
		fs.files.Close(f)
		return 0
	})
}
