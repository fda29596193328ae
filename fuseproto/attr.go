package fuseproto

import "structs"

// Bits of SetattrIn.Valid.
const (
	FattrMode        = 1 << 0  // FATTR_MODE
	FattrUID         = 1 << 1  // FATTR_UID
	FattrGID         = 1 << 2  // FATTR_GID
	FattrSize        = 1 << 3  // FATTR_SIZE
	FattrAtime       = 1 << 4  // FATTR_ATIME
	FattrMtime       = 1 << 5  // FATTR_MTIME
	FattrFh          = 1 << 6  // FATTR_FH
	FattrAtimeNow    = 1 << 7  // FATTR_ATIME_NOW
	FattrMtimeNow    = 1 << 8  // FATTR_MTIME_NOW
	FattrLockowner   = 1 << 9  // FATTR_LOCKOWNER
	FattrCtime       = 1 << 10 // FATTR_CTIME
	FattrKillSuidgid = 1 << 11 // FATTR_KILL_SUIDGID
)

// GetattrFh in GetattrFlags: Fh names an open file.
const GetattrFh = 1 << 0 // FUSE_GETATTR_FH

// Bits of Attr.Flags.
const (
	AttrSubmount = 1 << 0 // FUSE_ATTR_SUBMOUNT
	AttrDAX      = 1 << 1 // FUSE_ATTR_DAX
)

// Attr is struct fuse_attr.
type Attr struct {
	_         structs.HostLayout
	Ino       uint64
	Size      uint64
	Blocks    uint64
	Atime     uint64
	Mtime     uint64
	Ctime     uint64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32
	Nlink     uint32
	UID       uint32
	GID       uint32
	Rdev      uint32
	Blksize   uint32
	Flags     uint32
}

// AttrOut is struct fuse_attr_out.
type AttrOut struct {
	_             structs.HostLayout
	AttrValid     uint64
	AttrValidNsec uint32
	_             uint32
	Attr          Attr
}

// GetattrIn is struct fuse_getattr_in.
type GetattrIn struct {
	_            structs.HostLayout
	GetattrFlags uint32
	_            uint32
	Fh           uint64
}

// SetattrIn is struct fuse_setattr_in.
type SetattrIn struct {
	_         structs.HostLayout
	Valid     uint32
	_         uint32
	Fh        uint64
	Size      uint64
	LockOwner uint64
	Atime     uint64
	Mtime     uint64
	Ctime     uint64
	AtimeNsec uint32
	MtimeNsec uint32
	CtimeNsec uint32
	Mode      uint32
	_         uint32
	UID       uint32
	GID       uint32
	_         uint32
}

// SxTime is struct fuse_sx_time.
type SxTime struct {
	_    structs.HostLayout
	Sec  int64
	Nsec uint32
	_    int32
}

// Statx is struct fuse_statx.
type Statx struct {
	_              structs.HostLayout
	Mask           uint32
	Blksize        uint32
	Attributes     uint64
	Nlink          uint32
	UID            uint32
	GID            uint32
	Mode           uint16
	_              [1]uint16
	Ino            uint64
	Size           uint64
	Blocks         uint64
	AttributesMask uint64
	Atime          SxTime
	Btime          SxTime
	Ctime          SxTime
	Mtime          SxTime
	RdevMajor      uint32
	RdevMinor      uint32
	DevMajor       uint32
	DevMinor       uint32
	_              [14]uint64
}

// StatxIn is struct fuse_statx_in.
type StatxIn struct {
	_            structs.HostLayout
	GetattrFlags uint32
	_            uint32
	Fh           uint64
	SxFlags      uint32
	SxMask       uint32
}

// StatxOut is struct fuse_statx_out.
type StatxOut struct {
	_             structs.HostLayout
	AttrValid     uint64
	AttrValidNsec uint32
	Flags         uint32
	_             [2]uint64
	Stat          Statx
}

// Kstatfs is struct fuse_kstatfs.
type Kstatfs struct {
	_       structs.HostLayout
	Blocks  uint64
	Bfree   uint64
	Bavail  uint64
	Files   uint64
	Ffree   uint64
	Bsize   uint32
	NameLen uint32
	Frsize  uint32
	_       uint32
	_       [6]uint32
}

// StatfsOut is struct fuse_statfs_out.
type StatfsOut struct {
	_  structs.HostLayout
	St Kstatfs
}

// SyncfsIn is struct fuse_syncfs_in.
type SyncfsIn struct {
	_ structs.HostLayout
	_ uint64
}

// AccessIn is struct fuse_access_in.
type AccessIn struct {
	_    structs.HostLayout
	Mask uint32
	_    uint32
}
