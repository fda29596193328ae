package vfs

import (
	"context"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Node is a file, a directory, or a link. Its methods are called by several goroutines at the
// same time. Nodes must be comparable: see the package's documentation.
type Node interface {
	// Attr says what stat(2) says.
	Attr(ctx context.Context) (Attr, error)
}

// Attr are the attributes of a node.
type Attr struct {
	// Ino is the inode number, by which programs tell files apart. 0 is a number that is the
	// node's own as long as the client knows it.
	Ino  uint64
	Mode fs.FileMode // kind and permissions; the kind does not change
	Size int64       // in bytes
	// Blocks is how many blocks of 512 bytes the file takes; 0 is as many as Size says, and NoBlocks
	// is none.
	Blocks   uint64
	Nlink    uint32 // 0 is 1, and NoLinks is 0
	UID, GID uint32
	Rdev     uint32 // of a device
	// Mtime is the time of the last change of the data. Atime and Ctime are as Mtime if they are zero.
	Atime, Mtime, Ctime time.Time
	// Btime is when the file was made; zero is not known. Programs see it by statx(2).
	Btime time.Time
}

const (
	// NoBlocks is Attr.Blocks of a file that takes no room.
	NoBlocks = 1<<64 - 1
	// NoLinks is Attr.Nlink of a file that was removed and is still open.
	NoLinks = 1<<32 - 1
)

// AttrOf are the attributes that info says. The file belongs to root.
func AttrOf(info fs.FileInfo) Attr {
	return Attr{Mode: info.Mode(), Size: info.Size(), Mtime: info.ModTime()}
}

// put fills in what the client gets. id is the number of the node.
func (a *Attr) put(id uint64, out *fp.Attr) {
	size := uint64(max(a.Size, 0))
	*out = fp.Attr{Ino: a.Ino, Mode: server.ModeOf(a.Mode), Size: size, Blocks: a.Blocks,
		Nlink: max(a.Nlink, 1), UID: a.UID, GID: a.GID, Rdev: a.Rdev, Blksize: 4096}
	if out.Ino == 0 {
		out.Ino = id
	}
	if a.Nlink == NoLinks {
		out.Nlink = 0
	}
	switch out.Blocks {
	case 0:
		out.Blocks = (size + 511) / 512
	case NoBlocks:
		out.Blocks = 0
	}
	out.Mtime, out.MtimeNsec = split(a.Mtime, time.Time{})
	out.Atime, out.AtimeNsec = split(a.Atime, a.Mtime)
	out.Ctime, out.CtimeNsec = split(a.Ctime, a.Mtime)
}

// split is t, or other if t is zero, or 1970 if both are.
func split(t, other time.Time) (sec uint64, nsec uint32) {
	if t.IsZero() {
		t = other
	}
	if t.IsZero() {
		return 0, 0
	}
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// SetAttr is what the client wants to change of a node's attributes. nil is left as it is. The
// client's kernel has checked permissions, if it checks them (fusedev.Options.Permissions;
// virtio-fs always does).
type SetAttr struct {
	Mode         *fs.FileMode // permissions with set-ID and sticky bits
	UID, GID     *uint32
	Size         *int64     // bytes; what is added reads as zeros
	Atime, Mtime *time.Time // of last access and of last change of the data
	// Handle is the open file of ftruncate(2), or nil.
	Handle Handle
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name string
	Type fs.FileMode // the kind, of which fs.ModeType counts
	Ino  uint64      // 0 is not known
	// Node, if not nil, saves a Lookup for each name of a listing with attributes.
	Node Node
}

// Lookuper is a directory whose names can be looked up.
type Lookuper interface {
	// Lookup finds the node of a name. The error is fs.ErrNotExist if there is none.
	Lookup(ctx context.Context, name string) (Node, error)
}

// ReadDirer is a directory that can be listed.
type ReadDirer interface {
	// ReadDir is the whole listing, without "." and "..". It is called once for each open
	// directory, and again when a program rewinds it.
	ReadDir(ctx context.Context) ([]DirEntry, error)
}

// Readlinker is a symbolic link.
type Readlinker interface {
	Readlink(ctx context.Context) (target string, err error)
}

// Opener is a file of which something is kept while it is open. A node without it is its own
// Handle, and can be opened by everybody whom the mode lets do so.
type Opener interface {
	// Open opens the file. flags are those of open(2), without those that create or truncate: a
	// file that shall be truncated gets a SetAttr.
	Open(ctx context.Context, flags int) (Handle, error)
}

// AttrSetter is a node whose attributes can be changed.
type AttrSetter interface {
	// SetAttr changes all that is not nil in set, or nothing. Attr is called after it.
	SetAttr(ctx context.Context, set SetAttr) error
}

// Creator is a directory in which files can be made.
type Creator interface {
	// Create makes a regular file and opens it. The error is fs.ErrExist if the name is there.
	// A nil Handle is one that Open returns. The file belongs to the caller (CallerOf).
	Create(ctx context.Context, name string, flags int, mode fs.FileMode) (Node, Handle, error)
}

// Mkdirer is a directory in which directories can be made.
type Mkdirer interface {
	// Mkdir makes a directory; mode has fs.ModeDir set. The error is fs.ErrExist if the name is there.
	Mkdir(ctx context.Context, name string, mode fs.FileMode) (Node, error)
}

// Mknoder is a directory in which FIFOs, sockets and devices can be made. Without it mknod(2) can
// make regular files, if there is a Creator.
type Mknoder interface {
	// Mknod makes a node of the kind that mode says. rdev is the number of a device.
	Mknod(ctx context.Context, name string, mode fs.FileMode, rdev uint32) (Node, error)
}

// Symlinker is a directory in which symbolic links can be made.
type Symlinker interface {
	Symlink(ctx context.Context, target, name string) (Node, error)
}

// Linker is a directory in which nodes can get further names.
type Linker interface {
	// Link gives old, which is no directory, a further name.
	Link(ctx context.Context, old Node, name string) error
}

// Remover is a directory whose names can be removed.
type Remover interface {
	// Remove removes a name. If dir is true it must be that of an empty directory, otherwise of
	// anything but a directory. The file continues to exist while the client has it open, if it
	// is kept in the node.
	Remove(ctx context.Context, name string, dir bool) error
}

// Renamer is a directory whose names can be moved.
type Renamer interface {
	// Rename moves a name to newDir, where newName may be there already: then it is
	// replaced. flags are those of renameat2(2); EINVAL is for those that are not known.
	Rename(ctx context.Context, oldName string, newDir Node, newName string, flags uint32) error
}

// Xattrer is a node with extended attributes. A file system whose root is none has them
// nowhere.
type Xattrer interface {
	// Getxattr is the value of an attribute; ENODATA if there is none.
	Getxattr(ctx context.Context, name string) ([]byte, error)
	// Listxattr is the names of all attributes.
	Listxattr(ctx context.Context) ([]string, error)
}

// XattrSetter is a node whose extended attributes can be changed.
type XattrSetter interface {
	// Setxattr sets an attribute. flags are 0, unix.XATTR_CREATE or unix.XATTR_REPLACE.
	Setxattr(ctx context.Context, name string, value []byte, flags int) error
	// Removexattr removes an attribute; ENODATA if there is none.
	Removexattr(ctx context.Context, name string) error
}

// StatFSer is a root that knows how much room there is.
type StatFSer interface {
	StatFS(ctx context.Context) (StatFS, error)
}

// StatFS is what statfs(2) says.
type StatFS struct {
	BlockSize uint32 // bytes; 0 is 4096
	// Blocks are all blocks, BlocksFree those without data, and BlocksUsable those of them that not only root may use.
	Blocks, BlocksFree, BlocksUsable uint64
	Files, FilesFree                 uint64 // how many files there can be, and how many more
	NameMax                          uint32 // bytes in a name; 0 is 255
}

// Forgetter is a node that wants to know when the client has no number for it any more, and no
// request uses it. The client may look it up again. Forget must not block.
type Forgetter interface{ Forget() }

// Rememberer is a Forgetter that also wants to know when the client gets a number for it. Remember must
// not block. A file system that counts what removed files take frees a file when it has no name and
// the client does not know it.
type Rememberer interface{ Remember() }

// Handle is an open file. See the package's documentation for the methods that it can have.
type Handle any

// Reader is an open file, or a node, that can be read. So is an io.ReaderAt.
type Reader interface {
	// Read fills p from the offset off on, in bytes. Less is only at the end of the file, with
	// or without io.EOF. p is memory of this process, and another call's afterwards.
	Read(ctx context.Context, p []byte, off int64) (int, error)
}

// Writer is an open file, or a node, that can be written. So is an io.WriterAt.
type Writer interface {
	// Write writes p at the offset off, which can be any int64 that is not negative: a file
	// system has a limit, and says unix.EFBIG or unix.ENOSPC. p is another call's afterwards.
	Write(ctx context.Context, p []byte, off int64) (int, error)
}

// Flusher is an open file that wants to know of each close(2). There may be several, or one
// while other processes have the file open.
type Flusher interface {
	Flush(ctx context.Context) error
}

// Syncer is an open file, or a directory, that can be put on disk. So is one with the method
// Sync of *os.File.
type Syncer interface {
	Fsync(ctx context.Context, dataOnly bool) error
}

// Allocater is an open file with fallocate(2).
type Allocater interface {
	// Allocate does what mode, unix.FALLOC_FL_KEEP_SIZE and so on, says.
	Allocate(ctx context.Context, mode uint32, off, length int64) error
}

// HoleFinder is an open file that knows where it has holes. All of other files is data.
type HoleFinder interface {
	// FindHole is where the first data at or behind off begins, or the first hole if hole is true;
	// the end of the file is a hole. ENXIO if there is none.
	FindHole(ctx context.Context, off int64, hole bool) (int64, error)
}

// OpenOptioner is an open file that tells the client how to use it.
type OpenOptioner interface {
	OpenOptions() OpenOptions
}

// OpenOptions say how the client uses an open file.
type OpenOptions struct {
	// DirectIO passes each read(2) and write(2) on: nothing is cached. It is for contents that
	// change by themselves, or whose size is not known.
	DirectIO bool
	// KeepCache says that nothing has changed since the file was last open.
	KeepCache bool
	// Stream is for what has no offsets, such as a pipe.
	Stream bool
}

// Caller is the process of the client that has made a request.
type Caller struct {
	UID, GID uint32
	// PID is the thread in the client, whose numbers mean nothing on this host.
	PID    uint32
	Groups []uint32 // supplementary groups, if the client sent them
}

// CallerOf is who has made the request, for a context that a method of a node was called with; zero, which is
// root, for others.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(*requestContext)
	if c == nil {
		return Caller{}
	}
	return c.caller
}

type callerKey struct{}

// requestContext is the context of a request. It has copies, because a method may leave its
// context to a goroutine that continues.
type requestContext struct {
	caller Caller
	done   <-chan struct{}
}

func contextOf(r *server.Request) *requestContext {
	h := &r.Header
	return &requestContext{done: r.Canceled, caller: Caller{UID: h.UID, GID: h.GID, PID: h.PID, Groups: slices.Clone(r.Groups)}}
}

func (c *requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *requestContext) Done() <-chan struct{}       { return c.done }

func (c *requestContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

func (c *requestContext) Value(key any) any {
	if key == (callerKey{}) {
		return c
	}
	return nil
}

// FileMode is the kind and the permissions of a st_mode of stat(2); server.ModeOf is the way back.
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for _, b := range [...]struct {
		bit  uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if mode&b.bit != 0 {
			m |= b.mode
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	return m
}
