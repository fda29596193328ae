package fuseproto

import "structs"

// EntryOut is struct fuse_entry_out.
type EntryOut struct {
	_              structs.HostLayout
	NodeID         uint64
	Generation     uint64
	EntryValid     uint64
	AttrValid      uint64
	EntryValidNsec uint32
	AttrValidNsec  uint32
	Attr           Attr
}

// ForgetIn is struct fuse_forget_in.
type ForgetIn struct {
	_       structs.HostLayout
	NLookup uint64
}

// ForgetOne is struct fuse_forget_one.
type ForgetOne struct {
	_       structs.HostLayout
	NodeID  uint64
	NLookup uint64
}

// BatchForgetIn is struct fuse_batch_forget_in.
type BatchForgetIn struct {
	_     structs.HostLayout
	Count uint32
	_     uint32
}

// MknodIn is struct fuse_mknod_in.
type MknodIn struct {
	_     structs.HostLayout
	Mode  uint32
	Rdev  uint32
	Umask uint32
	_     uint32
}

// MkdirIn is struct fuse_mkdir_in.
type MkdirIn struct {
	_     structs.HostLayout
	Mode  uint32
	Umask uint32
}

// RenameIn is struct fuse_rename_in.
type RenameIn struct {
	_      structs.HostLayout
	NewDir uint64
}

// Rename2In is struct fuse_rename2_in.
type Rename2In struct {
	_      structs.HostLayout
	NewDir uint64
	Flags  uint32
	_      uint32
}

// LinkIn is struct fuse_link_in.
type LinkIn struct {
	_         structs.HostLayout
	OldNodeID uint64
}

// Dirent is struct fuse_dirent.
type Dirent struct {
	_       structs.HostLayout
	Ino     uint64
	Off     uint64
	NameLen uint32
	Type    uint32
}

// Direntplus is struct fuse_direntplus.
type Direntplus struct {
	_        structs.HostLayout
	EntryOut EntryOut
	Dirent   Dirent
}

// CreateOut is the reply to CREATE and TMPFILE: a fuse_entry_out followed by a
// fuse_open_out.
type CreateOut struct {
	_     structs.HostLayout
	Entry EntryOut
	Open  OpenOut
}

// DirentAlign rounds a directory record's length up to 8 bytes, as
// FUSE_DIRENT_ALIGN does.
func DirentAlign(n int) int { return (n + 7) &^ 7 }
