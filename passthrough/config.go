package passthrough

import (
	"time"

	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

// CachePolicy says how long a guest may keep what it has seen.
type CachePolicy int

// The policies and their timeouts for names and attributes.
const (
	CacheAuto     CachePolicy = iota // 1 s; file data is checked at open
	CacheNever                       // 0; file data is not cached at all
	CacheMetadata                    // 1 day; file data is not cached
	CacheAlways                      // 1 day; file data stays cached
)

func (p CachePolicy) timeout() time.Duration {
	switch p {
	case CacheNever:
		return 0
	case CacheAuto:
		return time.Second
	}
	return 24 * time.Hour
}

// Negotiation says whether a feature is used that needs the guest's support.
type Negotiation int

// Never, if the guest can, or refuse a guest that can't.
const (
	Never Negotiation = iota
	Auto
	Always
)

// Config describes a share.
type Config struct {
	// RootFD is an O_PATH descriptor of the shared directory or file. ProcFD is one
	// of the directory /proc/self/fd: a sandbox may have taken /proc away. FS keeps
	// both.
	RootFD, ProcFD int

	// LinksFD, if not 0, is the shared directory opened for reading on a mount without access
	// times (sandbox.OpenNoAtime). The targets of the symbolic links of a read-only share are
	// read through it, because Linux has no O_NOATIME for them. FS keeps it.
	LinksFD int

	Cache CachePolicy
	// Timeouts, where they differ from the policy's. A negative timeout is how long
	// the guest may believe that a name does not exist; nil is not at all.
	EntryTimeout, AttrTimeout, NegativeTimeout *time.Duration

	// Immutable is for a share that never changes: read-only, the guest keeps all that
	// it has seen for a year unless a timeout says otherwise, and opens nothing. The
	// server has to be read-only, too.
	Immutable bool
	// CacheSymlinks says whether the guest keeps targets of symbolic links; nil is as
	// the policy has it.
	CacheSymlinks *bool
	// DirectIO are patterns (see CheckPattern) for files of which the guest keeps no data. It also
	// keeps no data of files of DirectIOSize bytes or more, if that is not 0.
	DirectIO     []string
	DirectIOSize uint64

	Xattr bool // extended attributes
	// XattrMap, if not nil, says how attributes are called on the host.
	XattrMap      *xattrmap.Map
	PosixACL      Negotiation
	SecurityLabel Negotiation
	Writeback     bool // the guest collects writes (FUSE_WRITEBACK_CACHE)
	// BackingFiles lets the kernel that has a /dev/fuse mount read, write and map the files itself
	// (FUSE_PASSTHROUGH, Linux 6.9), where it can and this process has CAP_SYS_ADMIN. The kernel
	// opens each file once more, with the credentials of this process and the flags of the program.
	// The host's page cache is the only one then: what Cache and the options for direct I/O say of
	// data, and PreserveNoatime, has no effect on such files, nor has fcntl(F_SETFL) while they are
	// open. With KillprivV2 a write needs no request either. Without it each write asks for the
	// file's capabilities. It excludes Writeback. Guests have DAX instead.
	BackingFiles      bool
	AllowDirectIO     bool // O_DIRECT reaches the host's files
	AllowMmap         bool // shared mappings of files that are not cached
	AnnounceSubmounts bool
	Ownership         Ownership
	UIDs, GIDs        *IDMap // translation of ids between guest and host; nil is none
	ReadOnly          bool   // the server refuses changes; here are refused those that it can't see
	KillprivV2        bool   // we clear setuid, setgid and capabilities for the guest
	NoReaddirplus     bool
	// AllowIdmap lets the client have idmapped mounts (FUSE_ALLOW_IDMAP). Linux takes it
	// only from a mount with default_permissions, which those of virtio-fs have.
	AllowIdmap      bool
	PreserveNoatime bool // O_NOATIME reaches the host's files
	ShortPositions  bool // positions in directories of ext4 have 31 bits, for 32-bit programs
	PosixLocks      bool // fcntl locks are taken on the host
	Flocks          bool // flock locks are taken on the host

	// DAX is the guest's window into the page cache; nil is none.
	DAX *DAX

	// FileHandles says how nodes without a descriptor are found again, beside by name.
	FileHandles FileHandles
	// Landlocked says that the process is under Landlock's rules. The kernel then opens
	// no file through a descriptor that came from a file handle, unless somebody has
	// looked the file's name up since (security/landlock/fs.c: disconnected dentries).
	Landlocked bool

	// Migration says how nodes are found on the host that a guest moves to, and by a
	// guest that comes here.
	Migration Migration

	// MaxFDs is how many descriptors FS has at most, whatever the client does; 0 is all
	// that Host has, or that the process may have, less a reserve.
	MaxFDs int
	// Host is common to all shares of the process; nil: this is the only share. Without it each
	// share takes the process's limit for its own.
	Host *host.Host

	// FirstGeneration is the upper half of the first ids of nodes and open files, below 1<<31. If it is another one
	// in each process, a client that believes to have nodes of a process that is gone gets ESTALE for them, and
	// never another file.
	FirstGeneration uint32

	// Ledger is where the share is noted for a successor of this process, see Resume. The server
	// has the same one. nil: it is not noted.
	Ledger *ledger.Ledger
	// Keeper holds descriptors for a successor; nil is none. It needs Ledger.
	Keeper Keeper

	// These are told of every change of nodes and open files, if they are not nil.
	recordNodes nodes.Recorder[inode]
	recordOpens nodes.OpenRecorder[openFile]
	// noTmpfile is for tests: the share's file system counts as one without O_TMPFILE.
	noTmpfile bool
}
