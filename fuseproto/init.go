package fuseproto

import "structs"

// InitFlags are the bits that INIT negotiates: InitIn.Flags with Flags2 as the
// upper word.
type InitFlags uint64

const (
	InitAsyncRead         InitFlags = 1 << 0  // FUSE_ASYNC_READ
	InitPosixLocks        InitFlags = 1 << 1  // FUSE_POSIX_LOCKS
	InitFileOps           InitFlags = 1 << 2  // FUSE_FILE_OPS
	InitAtomicOTrunc      InitFlags = 1 << 3  // FUSE_ATOMIC_O_TRUNC
	InitExportSupport     InitFlags = 1 << 4  // FUSE_EXPORT_SUPPORT
	InitBigWrites         InitFlags = 1 << 5  // FUSE_BIG_WRITES
	InitDontMask          InitFlags = 1 << 6  // FUSE_DONT_MASK
	InitSpliceWrite       InitFlags = 1 << 7  // FUSE_SPLICE_WRITE
	InitSpliceMove        InitFlags = 1 << 8  // FUSE_SPLICE_MOVE
	InitSpliceRead        InitFlags = 1 << 9  // FUSE_SPLICE_READ
	InitFlockLocks        InitFlags = 1 << 10 // FUSE_FLOCK_LOCKS
	InitHasIoctlDir       InitFlags = 1 << 11 // FUSE_HAS_IOCTL_DIR
	InitAutoInvalData     InitFlags = 1 << 12 // FUSE_AUTO_INVAL_DATA
	InitDoReaddirplus     InitFlags = 1 << 13 // FUSE_DO_READDIRPLUS
	InitReaddirplusAuto   InitFlags = 1 << 14 // FUSE_READDIRPLUS_AUTO
	InitAsyncDIO          InitFlags = 1 << 15 // FUSE_ASYNC_DIO
	InitWritebackCache    InitFlags = 1 << 16 // FUSE_WRITEBACK_CACHE
	InitNoOpenSupport     InitFlags = 1 << 17 // FUSE_NO_OPEN_SUPPORT
	InitParallelDirops    InitFlags = 1 << 18 // FUSE_PARALLEL_DIROPS
	InitHandleKillpriv    InitFlags = 1 << 19 // FUSE_HANDLE_KILLPRIV
	InitPosixACL          InitFlags = 1 << 20 // FUSE_POSIX_ACL
	InitAbortError        InitFlags = 1 << 21 // FUSE_ABORT_ERROR
	InitMaxPages          InitFlags = 1 << 22 // FUSE_MAX_PAGES
	InitCacheSymlinks     InitFlags = 1 << 23 // FUSE_CACHE_SYMLINKS
	InitNoOpendirSupport  InitFlags = 1 << 24 // FUSE_NO_OPENDIR_SUPPORT
	InitExplicitInvalData InitFlags = 1 << 25 // FUSE_EXPLICIT_INVAL_DATA
	InitMapAlignment      InitFlags = 1 << 26 // FUSE_MAP_ALIGNMENT
	InitSubmounts         InitFlags = 1 << 27 // FUSE_SUBMOUNTS
	InitHandleKillprivV2  InitFlags = 1 << 28 // FUSE_HANDLE_KILLPRIV_V2
	InitSetxattrExt       InitFlags = 1 << 29 // FUSE_SETXATTR_EXT
	InitExt               InitFlags = 1 << 30 // FUSE_INIT_EXT
	InitReserved          InitFlags = 1 << 31 // FUSE_INIT_RESERVED
	InitSecurityCtx       InitFlags = 1 << 32 // FUSE_SECURITY_CTX
	InitHasInodeDAX       InitFlags = 1 << 33 // FUSE_HAS_INODE_DAX
	InitCreateSuppGroup   InitFlags = 1 << 34 // FUSE_CREATE_SUPP_GROUP
	InitHasExpireOnly     InitFlags = 1 << 35 // FUSE_HAS_EXPIRE_ONLY
	InitDirectIOAllowMmap InitFlags = 1 << 36 // FUSE_DIRECT_IO_ALLOW_MMAP
	InitPassthrough       InitFlags = 1 << 37 // FUSE_PASSTHROUGH
	InitNoExportSupport   InitFlags = 1 << 38 // FUSE_NO_EXPORT_SUPPORT
	InitHasResend         InitFlags = 1 << 39 // FUSE_HAS_RESEND
	InitAllowIdmap        InitFlags = 1 << 40 // FUSE_ALLOW_IDMAP
	InitOverIOUring       InitFlags = 1 << 41 // FUSE_OVER_IO_URING
	InitRequestTimeout    InitFlags = 1 << 42 // FUSE_REQUEST_TIMEOUT
)

// InitIn is struct fuse_init_in.
type InitIn struct {
	_            structs.HostLayout
	Major        uint32
	Minor        uint32
	MaxReadahead uint32
	Flags        uint32
	Flags2       uint32
	_            [11]uint32
}

// InitOut is struct fuse_init_out.
type InitOut struct {
	_                   structs.HostLayout
	Major               uint32
	Minor               uint32
	MaxReadahead        uint32
	Flags               uint32
	MaxBackground       uint16
	CongestionThreshold uint16
	MaxWrite            uint32
	TimeGran            uint32
	MaxPages            uint16
	MapAlignment        uint16
	Flags2              uint32
	MaxStackDepth       uint32
	RequestTimeout      uint16
	_                   [11]uint16
}

// Versions of the protocol.
const (
	KernelVersion      = 7  // FUSE_KERNEL_VERSION
	KernelMinorVersion = 45 // FUSE_KERNEL_MINOR_VERSION

	// MinMinorVersion is the oldest minor that this project speaks (Linux 4.20).
	MinMinorVersion = 27
)

// RootID is the node ID of the root directory.
const RootID = 1 // FUSE_ROOT_ID

// UniqueResend in InHeader.Unique marks a request sent again after the server
// reconnected.
const UniqueResend = 1 << 63 // FUSE_UNIQUE_RESEND

// InvalidUIDGID stands in InHeader.UID and GID when FUSE_ALLOW_IDMAP was agreed
// and the request has no idmapping.
const InvalidUIDGID = ^uint32(0) // FUSE_INVALID_UIDGID

// Lengths of INIT bodies in older minors.
const (
	CompatInitOutSize   = 8  // FUSE_COMPAT_INIT_OUT_SIZE
	Compat22InitOutSize = 24 // FUSE_COMPAT_22_INIT_OUT_SIZE
	CompatInitInSize    = 16 // struct fuse_init_in before INIT_EXT
)

// CompatSetxattrInSize is the length of SetxattrIn without SETXATTR_EXT.
const CompatSetxattrInSize = 8 // FUSE_COMPAT_SETXATTR_IN_SIZE

// InitFlags joins both words of an INIT request. The upper word counts only
// when the lower one has InitExt.
func (in *InitIn) InitFlags() InitFlags {
	f := InitFlags(in.Flags)
	if f&InitExt != 0 {
		f |= InitFlags(in.Flags2) << 32
	}
	return f
}
