package fuseproto

import "structs"

// Bits of SetupMappingIn.Flags.
const (
	SetupMappingWrite = 1 << 0 // FUSE_SETUPMAPPING_FLAG_WRITE
	SetupMappingRead  = 1 << 1 // FUSE_SETUPMAPPING_FLAG_READ
)

// SetupMappingIn is struct fuse_setupmapping_in.
type SetupMappingIn struct {
	_       structs.HostLayout
	Fh      uint64
	Foffset uint64
	Len     uint64
	Flags   uint64
	Moffset uint64
}

// RemoveMappingIn is struct fuse_removemapping_in.
type RemoveMappingIn struct {
	_     structs.HostLayout
	Count uint32
}

// RemoveMappingOne is struct fuse_removemapping_one.
type RemoveMappingOne struct {
	_       structs.HostLayout
	Moffset uint64
	Len     uint64
}
