package fuseproto

import "structs"

// SetxattrACLKillSgid in SetxattrIn.SetxattrFlags: clear S_ISGID when system.posix_acl_access is set.
const SetxattrACLKillSgid = 1 << 0 // FUSE_SETXATTR_ACL_KILL_SGID

// SetxattrIn is struct fuse_setxattr_in.
type SetxattrIn struct {
	_             structs.HostLayout
	Size          uint32
	Flags         uint32
	SetxattrFlags uint32
	_             uint32
}

// GetxattrIn is struct fuse_getxattr_in.
type GetxattrIn struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}

// GetxattrOut is struct fuse_getxattr_out.
type GetxattrOut struct {
	_    structs.HostLayout
	Size uint32
	_    uint32
}
