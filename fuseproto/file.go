package fuseproto

import "structs"

// Bits of OpenOut.OpenFlags.
const (
	FopenDirectIO             = 1 << 0 // FOPEN_DIRECT_IO
	FopenKeepCache            = 1 << 1 // FOPEN_KEEP_CACHE
	FopenNonseekable          = 1 << 2 // FOPEN_NONSEEKABLE
	FopenCacheDir             = 1 << 3 // FOPEN_CACHE_DIR
	FopenStream               = 1 << 4 // FOPEN_STREAM
	FopenNoflush              = 1 << 5 // FOPEN_NOFLUSH
	FopenParallelDirectWrites = 1 << 6 // FOPEN_PARALLEL_DIRECT_WRITES
	FopenPassthrough          = 1 << 7 // FOPEN_PASSTHROUGH
)

// Bits of ReleaseIn.ReleaseFlags.
const (
	ReleaseFlush       = 1 << 0 // FUSE_RELEASE_FLUSH
	ReleaseFlockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
)

// Bits of WriteIn.WriteFlags.
const (
	WriteCache       = 1 << 0 // FUSE_WRITE_CACHE
	WriteLockowner   = 1 << 1 // FUSE_WRITE_LOCKOWNER
	WriteKillSuidgid = 1 << 2 // FUSE_WRITE_KILL_SUIDGID
)

// ReadLockowner in ReadIn.ReadFlags: LockOwner is valid.
const ReadLockowner = 1 << 1 // FUSE_READ_LOCKOWNER

// Bits of IoctlIn.Flags and IoctlOut.Flags.
const (
	IoctlCompat       = 1 << 0 // FUSE_IOCTL_COMPAT
	IoctlUnrestricted = 1 << 1 // FUSE_IOCTL_UNRESTRICTED
	IoctlRetry        = 1 << 2 // FUSE_IOCTL_RETRY
	Ioctl32bit        = 1 << 3 // FUSE_IOCTL_32BIT
	IoctlDir          = 1 << 4 // FUSE_IOCTL_DIR
	IoctlCompatX32    = 1 << 5 // FUSE_IOCTL_COMPAT_X32
)

// IoctlMaxIov bounds InIovs + OutIovs.
const IoctlMaxIov = 256 // FUSE_IOCTL_MAX_IOV

// PollScheduleNotify in PollIn.Flags asks for a NOTIFY_POLL later.
const PollScheduleNotify = 1 << 0 // FUSE_POLL_SCHEDULE_NOTIFY

// FsyncFdatasync in FsyncIn.FsyncFlags: only data.
const FsyncFdatasync = 1 << 0 // FUSE_FSYNC_FDATASYNC

// OpenKillSuidgid in OpenIn.OpenFlags: kill setuid and setgid on truncation.
const OpenKillSuidgid = 1 << 0 // FUSE_OPEN_KILL_SUIDGID

// OpenIn is struct fuse_open_in.
type OpenIn struct {
	_         structs.HostLayout
	Flags     uint32
	OpenFlags uint32
}

// CreateIn is struct fuse_create_in.
type CreateIn struct {
	_         structs.HostLayout
	Flags     uint32
	Mode      uint32
	Umask     uint32
	OpenFlags uint32
}

// OpenOut is struct fuse_open_out.
type OpenOut struct {
	_         structs.HostLayout
	Fh        uint64
	OpenFlags uint32
	BackingID int32
}

// ReleaseIn is struct fuse_release_in.
type ReleaseIn struct {
	_            structs.HostLayout
	Fh           uint64
	Flags        uint32
	ReleaseFlags uint32
	LockOwner    uint64
}

// FlushIn is struct fuse_flush_in.
type FlushIn struct {
	_         structs.HostLayout
	Fh        uint64
	_         uint32
	_         uint32
	LockOwner uint64
}

// ReadIn is struct fuse_read_in.
type ReadIn struct {
	_         structs.HostLayout
	Fh        uint64
	Offset    uint64
	Size      uint32
	ReadFlags uint32
	LockOwner uint64
	Flags     uint32
	_         uint32
}

// WriteIn is struct fuse_write_in.
type WriteIn struct {
	_          structs.HostLayout
	Fh         uint64
	Offset     uint64
	Size       uint32
	WriteFlags uint32
	LockOwner  uint64
	Flags      uint32
	_          uint32
}

// WriteOut is struct fuse_write_out.
type WriteOut struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}

// FsyncIn is struct fuse_fsync_in.
type FsyncIn struct {
	_          structs.HostLayout
	Fh         uint64
	FsyncFlags uint32
	_          uint32
}

// FallocateIn is struct fuse_fallocate_in.
type FallocateIn struct {
	_      structs.HostLayout
	Fh     uint64
	Offset uint64
	Length uint64
	Mode   uint32
	_      uint32
}

// LseekIn is struct fuse_lseek_in.
type LseekIn struct {
	_      structs.HostLayout
	Fh     uint64
	Offset uint64
	Whence uint32
	_      uint32
}

// LseekOut is struct fuse_lseek_out.
type LseekOut struct {
	_      structs.HostLayout
	Offset uint64
}

// CopyFileRangeIn is struct fuse_copy_file_range_in.
type CopyFileRangeIn struct {
	_         structs.HostLayout
	FhIn      uint64
	OffIn     uint64
	NodeIDOut uint64
	FhOut     uint64
	OffOut    uint64
	Len       uint64
	Flags     uint64
}

// CopyFileRangeOut is struct fuse_copy_file_range_out.
type CopyFileRangeOut struct {
	_           structs.HostLayout
	BytesCopied uint64
}

// IoctlIn is struct fuse_ioctl_in.
type IoctlIn struct {
	_       structs.HostLayout
	Fh      uint64
	Flags   uint32
	Cmd     uint32
	Arg     uint64
	InSize  uint32
	OutSize uint32
}

// IoctlIovec is struct fuse_ioctl_iovec.
type IoctlIovec struct {
	_    structs.HostLayout
	Base uint64
	Len  uint64
}

// IoctlOut is struct fuse_ioctl_out.
type IoctlOut struct {
	_       structs.HostLayout
	Result  int32
	Flags   uint32
	InIovs  uint32
	OutIovs uint32
}

// PollIn is struct fuse_poll_in.
type PollIn struct {
	_      structs.HostLayout
	Fh     uint64
	Kh     uint64
	Flags  uint32
	Events uint32
}

// PollOut is struct fuse_poll_out.
type PollOut struct {
	_       structs.HostLayout
	Revents uint32
	_       uint32
}

// BmapIn is struct fuse_bmap_in.
type BmapIn struct {
	_         structs.HostLayout
	Block     uint64
	Blocksize uint32
	_         uint32
}

// BmapOut is struct fuse_bmap_out.
type BmapOut struct {
	_     structs.HostLayout
	Block uint64
}
