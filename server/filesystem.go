package server

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// WouldBlock is the errno with which a FileSystem method says that it cannot
// finish now without waiting (for a lock, a disk, a remote server) and has
// changed nothing. The server then calls the method once more with the same
// arguments and Request.MayWait set, on a thread that no queue depends on. It
// never reaches the client, and a method must not return it when MayWait is set.
const WouldBlock = unix.Errno(4096)

// WouldBlockBriefly is WouldBlock for a wait that is under way already, as that for a page
// which the kernel is reading, and that will be short. The method may be called again on
// the thread of the request's queue, when that has nothing else to do.
const WouldBlockBriefly = unix.Errno(4097)

// WouldBlockInGo is WouldBlock for a wait that holds no thread: for a channel or a lock of
// Go's, as an answer of another process is waited for. The method is called again on a
// goroutine that is locked to no thread, with a Thread whose Local is nil; it must make no
// system call that can block. As many such waits as the client's memory allows (64 MiB)
// can be under way; beyond that requests get ENOMEM. Request.Park takes no goroutine either.
const WouldBlockInGo = unix.Errno(4098)

// waits reports whether a method wants to be called again.
func waits(errno unix.Errno) bool { return errno >= WouldBlock && errno <= wouldBlockParked }

// FileSystem answers FUSE requests, one method an opcode. Methods run
// concurrently, one per Thread. Arguments (in, names, buffers, r itself) belong
// to the thread and die when the method returns; out is zeroed before the call.
// An errno of 0 is success. With any other errno nothing that the method put in
// out is sent, and the method has left no lookup count or open file behind.
//
// The server checks these before the call: a body has its full length, names pass
// fuseproto.ParseName, the reply has room, and no opcode changes a read-only
// share. The file system must check the other values, which the client chooses:
// node IDs, fh, offsets, sizes and flags.
//
// Embed NotImplemented and write the methods that you have. To change some methods of another
// file system embed that: there are no optional interfaces which would be lost.
//
// Close frees all that the file system holds. It is the last call: no other method runs or will
// be called.
type FileSystem interface {
	Close()
	Session
	Threads
	Places
	State
	Names
	Attributes
	Files
	Directories
	Xattrs
	Locks
	Mappings
}

// InitParams is what INIT settles. The server fills in the client's side and
// its own proposal; FileSystem.Init may lower or raise the proposal.
type InitParams struct {
	Minor   uint32       // agreed minor version, fp.MinMinorVersion to fp.KernelMinorVersion
	Offered fp.InitFlags // what the client can do

	// Resumed says that a session of another daemon continues here. Offered is what was
	// agreed there, and all of it must be agreed again.
	Resumed bool

	// Flags goes back to the client, less what it did not offer. It comes with
	// the flags that need nothing from the file system set.
	Flags fp.InitFlags

	MaxReadahead        uint32 // bytes
	MaxWrite            uint32 // bytes of data in one READ or WRITE
	MaxBackground       uint16
	CongestionThreshold uint16
	TimeGran            uint32 // granularity of timestamps, ns
	MapAlignment        uint16 // log2 of the alignment of DAX mappings, with fp.InitMapAlignment
	RequestTimeout      uint16 // seconds, with fp.InitRequestTimeout; 0 is none
}

// Session is the life of one mount and what concerns all of it.
type Session interface {
	// Init starts a session. Requests of an earlier one may still be running.
	Init(p *InitParams) unix.Errno
	// Destroy ends it: every node but the root and every open file is dropped.
	// Requests on other threads may still be running.
	Destroy()
	// Unmount comes before Destroy when the client itself ends the session. It may take a
	// while, because only this request waits for it. It may return WouldBlock.
	Unmount(r *Request) unix.Errno
	Statfs(r *Request, out *fp.Kstatfs) unix.Errno
	Syncfs(r *Request) unix.Errno
}

// Names makes, finds and removes directory entries. r.Header.NodeID is the
// (old) parent directory.
type Names interface {
	// Lookup adds one to the lookup count of the node it answers with, as do
	// all methods with an EntryOut or CreateOut.
	Lookup(r *Request, name fp.Name, out *fp.EntryOut) unix.Errno
	// Forget takes nlookup off the lookup count of nodeID; both may be forged. by is where the
	// request is noted for a successor of this process; nil is nowhere.
	Forget(by *fuse.Cell, nodeID, nlookup uint64)
	Mknod(r *Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno
	Mkdir(r *Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno
	Symlink(r *Request, name, target fp.Name, out *fp.EntryOut) unix.Errno
	Link(r *Request, in *fp.LinkIn, newName fp.Name, out *fp.EntryOut) unix.Errno
	Unlink(r *Request, name fp.Name) unix.Errno
	Rmdir(r *Request, name fp.Name) unix.Errno
	// Rename serves RENAME (Flags is 0) and RENAME2.
	Rename(r *Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno
}

// Attributes reads and changes the node r.Header.NodeID.
type Attributes interface {
	Getattr(r *Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno
	Setattr(r *Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno
	Statx(r *Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno
	Access(r *Request, in *fp.AccessIn) unix.Errno
	// Readlink fills dst (PATH_MAX bytes) and returns the length, without NUL.
	Readlink(r *Request, dst []byte) (int, unix.Errno)
}

// Files opens the node r.Header.NodeID and works on open files. An Fh is
// checked to be an open file of that node.
type Files interface {
	Open(r *Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno
	Create(r *Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno
	Tmpfile(r *Request, in *fp.CreateIn, out *fp.CreateOut) unix.Errno
	// Read fills the client's buffers dst, of in.Size bytes together, from
	// in.Offset on; less only at the end of the file.
	Read(r *Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno)
	// Write takes in.Size bytes from the client's buffers src.
	Write(r *Request, in *fp.WriteIn, src fuse.Buffers) (int, unix.Errno)
	Flush(r *Request, in *fp.FlushIn) unix.Errno
	Release(r *Request, in *fp.ReleaseIn) unix.Errno
	Fsync(r *Request, in *fp.FsyncIn) unix.Errno
	Fallocate(r *Request, in *fp.FallocateIn) unix.Errno
	Lseek(r *Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno
	// CopyFileRange serves both forms; the server cuts what COPY_FILE_RANGE
	// copies to what its 32-bit reply can say.
	CopyFileRange(r *Request, in *fp.CopyFileRangeIn) (uint64, unix.Errno)
	// Ioctl gets the argument data in in and puts out.Result and at most
	// len(dst) bytes of data; it returns how many.
	Ioctl(r *Request, in *fp.IoctlIn, data []byte, out *fp.IoctlOut, dst []byte) (int, unix.Errno)
	Poll(r *Request, in *fp.PollIn, out *fp.PollOut) unix.Errno
}

// Directories lists directories. An Fh is checked to be an open file of the node.
type Directories interface {
	Opendir(r *Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno
	Readdir(r *Request, in *fp.ReadIn, out *DirWriter) unix.Errno
	// Readdirplus adds one to the lookup count of each node that it could add
	// to out, "." and ".." excepted.
	Readdirplus(r *Request, in *fp.ReadIn, out *DirWriter) unix.Errno
	Releasedir(r *Request, in *fp.ReleaseIn) unix.Errno
	Fsyncdir(r *Request, in *fp.FsyncIn) unix.Errno
}

// Xattrs works on the extended attributes of the node r.Header.NodeID. Names
// are non-empty and at most XATTR_NAME_MAX bytes.
type Xattrs interface {
	// Getxattr and Listxattr fill dst and return the length; with an empty dst
	// they return the length that is needed. ERANGE when dst is too small.
	Getxattr(r *Request, name fp.Name, dst []byte) (int, unix.Errno)
	Listxattr(r *Request, dst []byte) (int, unix.Errno)
	// Setxattr gets in.SetxattrFlags only when SETXATTR_EXT was agreed.
	Setxattr(r *Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno
	Removexattr(r *Request, name fp.Name) unix.Errno
}

// Locks are advisory file locks, POSIX or flock (fp.LkFlock).
type Locks interface {
	Getlk(r *Request, in *fp.LkIn, out *fp.LkOut) unix.Errno
	// Setlk takes or drops a lock. When wait is set and another owner holds the
	// lock it returns WouldBlock, or waits when r.MayWait is set, until
	// r.Canceled is closed (EINTR). There may be no room to wait: the client
	// then gets ENOLCK (fuse.Hooks).
	Setlk(r *Request, in *fp.LkIn, wait bool) unix.Errno
}

// Mappings maps file ranges into the client's DAX window, after INIT has agreed on
// fp.InitMapAlignment.
type Mappings interface {
	// SetupMapping is for an open file, or, if in.Fh is all ones, for the node.
	SetupMapping(r *Request, in *fp.SetupMappingIn) unix.Errno
	RemoveMapping(r *Request, list []fp.RemoveMappingOne) unix.Errno
}

// Threads keep what a file system has for each operating system thread: credentials, umask,
// working directory. One that has nothing embeds NotImplemented.
type Threads interface {
	// StartThread is called for each new Thread, on the goroutine that will use it and
	// after that goroutine was locked to its operating system thread; the state goes in
	// t.Local.
	StartThread(t *Thread) error
	// StopThread releases what StartThread took.
	StopThread(t *Thread)
}

// Places says where requests are at work, for what hangs: a file system of the host may not
// answer for long, and only requests that touch it shall wait then. The methods may be called by
// any goroutine with any number.
type Places interface {
	// Backing is a number below 1<<62 for the file system of the host that requests of the node
	// need, or if name is not empty those of the name in that directory. 0 is not known. It
	// must not wait, and takes no lock that is held across a system call.
	Backing(nodeID uint64, name fp.Name) uint64
	// Path is where the node is, as the client sees it, for messages: "dir/file", "." for the
	// root, "" if that is not known.
	Path(nodeID uint64) string
}

// State moves nodes, open files and locks to another process, possibly on another host. A file
// system that can't be moved embeds NotImplemented.
type State interface {
	// SaveState writes what LoadState needs and changes nothing: the file system may
	// have to continue. No request runs meanwhile. The format is the file system's own.
	SaveState(t *Thread, w io.Writer) error
	// Leave follows when a state was written completely. It gives up what only one
	// process can have: locks.
	Leave(t *Thread)
	// Return follows Leave if the client continues here and not at the destination. The
	// warning, if there is one, says what another process has taken meanwhile.
	Return(t *Thread) (warning string)
	// LoadState reads from r up to the end what SaveState has written, which may be forged.
	// It makes the nodes, open files and locks that were saved, with their numbers,
	// in a file system without any; Init has been called. After an error there are none.
	// The warning, if there is one, says what the client has lost.
	LoadState(t *Thread, r io.Reader) (warning string, err error)
	// Resume makes the nodes, open files and locks that another process has left in the ledger
	// that both have, which may be forged, in a file system without any; Init has been called.
	// If session is false there is none: what is left in the ledger is removed. It returns what
	// requests under way have been granted. After an error the ledger is as it was. The warning,
	// if there is one, says what the client has lost.
	Resume(t *Thread, session bool) (warning string, err error)
}
