package fuseproto

import "unsafe"

// Body lists the fixed-layout structs that View and Bytes accept. A struct
// belongs here only when layout_test.go checks it against the kernel header
// and it holds no pointers.
type Body interface {
	InHeader | OutHeader | InterruptIn | Attr | AttrOut | GetattrIn | SetattrIn |
		SxTime | Statx | StatxIn | StatxOut | Kstatfs | StatfsOut | SyncfsIn |
		AccessIn | OpenIn | CreateIn | OpenOut | ReleaseIn | FlushIn | ReadIn |
		WriteIn | WriteOut | FsyncIn | FallocateIn | LseekIn | LseekOut |
		CopyFileRangeIn | CopyFileRangeOut | IoctlIn | IoctlIovec | IoctlOut |
		PollIn | PollOut | BmapIn | BmapOut | EntryOut | ForgetIn | ForgetOne |
		BatchForgetIn | MknodIn | MkdirIn | RenameIn | Rename2In | LinkIn |
		CreateOut | Dirent | Direntplus | SetxattrIn | GetxattrIn | GetxattrOut |
		FileLock | LkIn | LkOut | SetupMappingIn | RemoveMappingIn |
		RemoveMappingOne | NotifyPollWakeupOut | NotifyInvalInodeOut |
		NotifyInvalEntryOut | NotifyDeleteOut | NotifyStoreOut |
		NotifyRetrieveOut | NotifyRetrieveIn | NotifyPruneOut | Secctx |
		SecctxHeader | ExtHeader | SuppGroups | InitIn | InitOut
}

// View returns the front of b as a T without copying, and what follows it. It
// is not ok when b is shorter than a T. b must be memory that only this process
// writes (else the peer could change a value after it was checked) and must be
// aligned to 8 bytes.
func View[T Body](b []byte) (v *T, rest []byte, ok bool) {
	n := int(unsafe.Sizeof(*v))
	if len(b) < n {
		return nil, b, false
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b))), b[n:], true
}

// Bytes is the wire image of v; it shares v's memory.
func Bytes[T Body](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// Size is the wire length of a T in bytes.
func Size[T Body]() int {
	var v T
	return int(unsafe.Sizeof(v))
}
