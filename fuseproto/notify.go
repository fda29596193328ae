package fuseproto

import "structs"

// NotifyCode says what an unsolicited message from the server means; it
// stands in OutHeader.Error of a message whose Unique is 0.
type NotifyCode int32

const (
	NotifyPoll       NotifyCode = 1 // FUSE_NOTIFY_POLL
	NotifyInvalInode NotifyCode = 2 // FUSE_NOTIFY_INVAL_INODE
	NotifyInvalEntry NotifyCode = 3 // FUSE_NOTIFY_INVAL_ENTRY
	NotifyStore      NotifyCode = 4 // FUSE_NOTIFY_STORE
	NotifyRetrieve   NotifyCode = 5 // FUSE_NOTIFY_RETRIEVE
	NotifyDelete     NotifyCode = 6 // FUSE_NOTIFY_DELETE
	NotifyResend     NotifyCode = 7 // FUSE_NOTIFY_RESEND
	NotifyIncEpoch   NotifyCode = 8 // FUSE_NOTIFY_INC_EPOCH
	NotifyPrune      NotifyCode = 9 // FUSE_NOTIFY_PRUNE
)

// ExpireOnly in NotifyInvalEntryOut.Flags: expire the entry, do not drop it.
const ExpireOnly = 1 << 0 // FUSE_EXPIRE_ONLY

// NotifyPollWakeupOut is struct fuse_notify_poll_wakeup_out.
type NotifyPollWakeupOut struct {
	_  structs.HostLayout
	Kh uint64
}

// NotifyInvalInodeOut is struct fuse_notify_inval_inode_out.
type NotifyInvalInodeOut struct {
	_   structs.HostLayout
	Ino uint64
	Off int64
	Len int64
}

// NotifyInvalEntryOut is struct fuse_notify_inval_entry_out.
type NotifyInvalEntryOut struct {
	_       structs.HostLayout
	Parent  uint64
	NameLen uint32
	Flags   uint32
}

// NotifyDeleteOut is struct fuse_notify_delete_out.
type NotifyDeleteOut struct {
	_       structs.HostLayout
	Parent  uint64
	Child   uint64
	NameLen uint32
	_       uint32
}

// NotifyStoreOut is struct fuse_notify_store_out.
type NotifyStoreOut struct {
	_      structs.HostLayout
	NodeID uint64
	Offset uint64
	Size   uint32
	_      uint32
}

// NotifyRetrieveOut is struct fuse_notify_retrieve_out.
type NotifyRetrieveOut struct {
	_            structs.HostLayout
	NotifyUnique uint64
	NodeID       uint64
	Offset       uint64
	Size         uint32
	_            uint32
}

// NotifyRetrieveIn is struct fuse_notify_retrieve_in.
type NotifyRetrieveIn struct {
	_      structs.HostLayout
	_      uint64
	Offset uint64
	Size   uint32
	_      uint32
	_      uint64
	_      uint64
}

// NotifyPruneOut is struct fuse_notify_prune_out.
type NotifyPruneOut struct {
	_     structs.HostLayout
	Count uint32
	_     uint32
	_     uint64
}
