package fuseproto

import "structs"

// Extension types of ExtHeader.Type; 0 to MaxNrSecctx count the security
// contexts of a SecctxHeader instead.
const (
	MaxNrSecctx = 31 // FUSE_MAX_NR_SECCTX
	ExtGroups   = 32 // FUSE_EXT_GROUPS
)

// Secctx is struct fuse_secctx.
type Secctx struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}

// SecctxHeader is struct fuse_secctx_header.
type SecctxHeader struct {
	_        structs.HostLayout
	Size     uint32
	NrSecctx uint32
}

// ExtHeader is struct fuse_ext_header.
type ExtHeader struct {
	_    structs.HostLayout
	Size uint32
	Type uint32
}

// SuppGroups is struct fuse_supp_groups.
type SuppGroups struct {
	_        structs.HostLayout
	NrGroups uint32
}
