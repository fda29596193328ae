package fuseproto

import "structs"

// LkFlock in LkIn.LkFlags: a flock(2) lock, not a POSIX one.
const LkFlock = 1 << 0 // FUSE_LK_FLOCK

// FileLock is struct fuse_file_lock.
type FileLock struct {
	_     structs.HostLayout
	Start uint64
	End   uint64
	Type  uint32
	PID   uint32
}

// LkIn is struct fuse_lk_in.
type LkIn struct {
	_       structs.HostLayout
	Fh      uint64
	Owner   uint64
	Lk      FileLock
	LkFlags uint32
	_       uint32
}

// LkOut is struct fuse_lk_out.
type LkOut struct {
	_  structs.HostLayout
	Lk FileLock
}
