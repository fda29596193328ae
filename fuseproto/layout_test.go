package fuseproto

import (
	"bufio"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// cStructs are the Go structs by the name of the C struct.
var cStructs = map[string]any{
	"fuse_access_in":              AccessIn{},
	"fuse_attr":                   Attr{},
	"fuse_attr_out":               AttrOut{},
	"fuse_batch_forget_in":        BatchForgetIn{},
	"fuse_bmap_in":                BmapIn{},
	"fuse_bmap_out":               BmapOut{},
	"fuse_copy_file_range_in":     CopyFileRangeIn{},
	"fuse_copy_file_range_out":    CopyFileRangeOut{},
	"fuse_create_in":              CreateIn{},
	"fuse_dirent":                 Dirent{},
	"fuse_direntplus":             Direntplus{},
	"fuse_entry_out":              EntryOut{},
	"fuse_ext_header":             ExtHeader{},
	"fuse_fallocate_in":           FallocateIn{},
	"fuse_file_lock":              FileLock{},
	"fuse_flush_in":               FlushIn{},
	"fuse_forget_in":              ForgetIn{},
	"fuse_forget_one":             ForgetOne{},
	"fuse_fsync_in":               FsyncIn{},
	"fuse_getattr_in":             GetattrIn{},
	"fuse_getxattr_in":            GetxattrIn{},
	"fuse_getxattr_out":           GetxattrOut{},
	"fuse_in_header":              InHeader{},
	"fuse_init_in":                InitIn{},
	"fuse_init_out":               InitOut{},
	"fuse_interrupt_in":           InterruptIn{},
	"fuse_ioctl_in":               IoctlIn{},
	"fuse_ioctl_iovec":            IoctlIovec{},
	"fuse_ioctl_out":              IoctlOut{},
	"fuse_kstatfs":                Kstatfs{},
	"fuse_link_in":                LinkIn{},
	"fuse_lk_in":                  LkIn{},
	"fuse_lk_out":                 LkOut{},
	"fuse_lseek_in":               LseekIn{},
	"fuse_lseek_out":              LseekOut{},
	"fuse_mkdir_in":               MkdirIn{},
	"fuse_mknod_in":               MknodIn{},
	"fuse_notify_delete_out":      NotifyDeleteOut{},
	"fuse_notify_inval_entry_out": NotifyInvalEntryOut{},
	"fuse_notify_inval_inode_out": NotifyInvalInodeOut{},
	"fuse_notify_poll_wakeup_out": NotifyPollWakeupOut{},
	"fuse_notify_prune_out":       NotifyPruneOut{},
	"fuse_notify_retrieve_in":     NotifyRetrieveIn{},
	"fuse_notify_retrieve_out":    NotifyRetrieveOut{},
	"fuse_notify_store_out":       NotifyStoreOut{},
	"fuse_open_in":                OpenIn{},
	"fuse_open_out":               OpenOut{},
	"fuse_out_header":             OutHeader{},
	"fuse_poll_in":                PollIn{},
	"fuse_poll_out":               PollOut{},
	"fuse_read_in":                ReadIn{},
	"fuse_release_in":             ReleaseIn{},
	"fuse_removemapping_in":       RemoveMappingIn{},
	"fuse_removemapping_one":      RemoveMappingOne{},
	"fuse_rename2_in":             Rename2In{},
	"fuse_rename_in":              RenameIn{},
	"fuse_secctx":                 Secctx{},
	"fuse_secctx_header":          SecctxHeader{},
	"fuse_setattr_in":             SetattrIn{},
	"fuse_setupmapping_in":        SetupMappingIn{},
	"fuse_setxattr_in":            SetxattrIn{},
	"fuse_statfs_out":             StatfsOut{},
	"fuse_statx":                  Statx{},
	"fuse_statx_in":               StatxIn{},
	"fuse_statx_out":              StatxOut{},
	"fuse_supp_groups":            SuppGroups{},
	"fuse_sx_time":                SxTime{},
	"fuse_syncfs_in":              SyncfsIn{},
	"fuse_write_in":               WriteIn{},
	"fuse_write_out":              WriteOut{},
}

// cConstants are the Go constants by the name of the C macro or enumerator.
var cConstants = map[string]uint64{
	"FATTR_ATIME":                  uint64(FattrAtime),
	"FATTR_ATIME_NOW":              uint64(FattrAtimeNow),
	"FATTR_CTIME":                  uint64(FattrCtime),
	"FATTR_FH":                     uint64(FattrFh),
	"FATTR_GID":                    uint64(FattrGID),
	"FATTR_KILL_SUIDGID":           uint64(FattrKillSuidgid),
	"FATTR_LOCKOWNER":              uint64(FattrLockowner),
	"FATTR_MODE":                   uint64(FattrMode),
	"FATTR_MTIME":                  uint64(FattrMtime),
	"FATTR_MTIME_NOW":              uint64(FattrMtimeNow),
	"FATTR_SIZE":                   uint64(FattrSize),
	"FATTR_UID":                    uint64(FattrUID),
	"FOPEN_CACHE_DIR":              uint64(FopenCacheDir),
	"FOPEN_DIRECT_IO":              uint64(FopenDirectIO),
	"FOPEN_KEEP_CACHE":             uint64(FopenKeepCache),
	"FOPEN_NOFLUSH":                uint64(FopenNoflush),
	"FOPEN_NONSEEKABLE":            uint64(FopenNonseekable),
	"FOPEN_PARALLEL_DIRECT_WRITES": uint64(FopenParallelDirectWrites),
	"FOPEN_PASSTHROUGH":            uint64(FopenPassthrough),
	"FOPEN_STREAM":                 uint64(FopenStream),
	"FUSE_ABORT_ERROR":             uint64(InitAbortError),
	"FUSE_ACCESS":                  uint64(OpAccess),
	"FUSE_ALLOW_IDMAP":             uint64(InitAllowIdmap),
	"FUSE_ASYNC_DIO":               uint64(InitAsyncDIO),
	"FUSE_ASYNC_READ":              uint64(InitAsyncRead),
	"FUSE_ATOMIC_O_TRUNC":          uint64(InitAtomicOTrunc),
	"FUSE_ATTR_DAX":                uint64(AttrDAX),
	"FUSE_ATTR_SUBMOUNT":           uint64(AttrSubmount),
	"FUSE_AUTO_INVAL_DATA":         uint64(InitAutoInvalData),
	"FUSE_BATCH_FORGET":            uint64(OpBatchForget),
	"FUSE_BIG_WRITES":              uint64(InitBigWrites),
	"FUSE_BMAP":                    uint64(OpBmap),
	"FUSE_CACHE_SYMLINKS":          uint64(InitCacheSymlinks),
	"FUSE_COMPAT_22_INIT_OUT_SIZE": uint64(Compat22InitOutSize),
	"FUSE_COMPAT_INIT_OUT_SIZE":    uint64(CompatInitOutSize),
	"FUSE_COMPAT_SETXATTR_IN_SIZE": uint64(CompatSetxattrInSize),
	"FUSE_COPY_FILE_RANGE":         uint64(OpCopyFileRange),
	"FUSE_COPY_FILE_RANGE_64":      uint64(OpCopyFileRange64),
	"FUSE_CREATE":                  uint64(OpCreate),
	"FUSE_CREATE_SUPP_GROUP":       uint64(InitCreateSuppGroup),
	"FUSE_DESTROY":                 uint64(OpDestroy),
	"FUSE_DIRECT_IO_ALLOW_MMAP":    uint64(InitDirectIOAllowMmap),
	"FUSE_DONT_MASK":               uint64(InitDontMask),
	"FUSE_DO_READDIRPLUS":          uint64(InitDoReaddirplus),
	"FUSE_EXPIRE_ONLY":             uint64(ExpireOnly),
	"FUSE_EXPLICIT_INVAL_DATA":     uint64(InitExplicitInvalData),
	"FUSE_EXPORT_SUPPORT":          uint64(InitExportSupport),
	"FUSE_EXT_GROUPS":              uint64(ExtGroups),
	"FUSE_FALLOCATE":               uint64(OpFallocate),
	"FUSE_FILE_OPS":                uint64(InitFileOps),
	"FUSE_FLOCK_LOCKS":             uint64(InitFlockLocks),
	"FUSE_FLUSH":                   uint64(OpFlush),
	"FUSE_FORGET":                  uint64(OpForget),
	"FUSE_FSYNC":                   uint64(OpFsync),
	"FUSE_FSYNCDIR":                uint64(OpFsyncdir),
	"FUSE_FSYNC_FDATASYNC":         uint64(FsyncFdatasync),
	"FUSE_GETATTR":                 uint64(OpGetattr),
	"FUSE_GETATTR_FH":              uint64(GetattrFh),
	"FUSE_GETLK":                   uint64(OpGetlk),
	"FUSE_GETXATTR":                uint64(OpGetxattr),
	"FUSE_HANDLE_KILLPRIV":         uint64(InitHandleKillpriv),
	"FUSE_HANDLE_KILLPRIV_V2":      uint64(InitHandleKillprivV2),
	"FUSE_HAS_EXPIRE_ONLY":         uint64(InitHasExpireOnly),
	"FUSE_HAS_INODE_DAX":           uint64(InitHasInodeDAX),
	"FUSE_HAS_IOCTL_DIR":           uint64(InitHasIoctlDir),
	"FUSE_HAS_RESEND":              uint64(InitHasResend),
	"FUSE_INIT":                    uint64(OpInit),
	"FUSE_INIT_EXT":                uint64(InitExt),
	"FUSE_INTERRUPT":               uint64(OpInterrupt),
	"FUSE_INVALID_UIDGID":          uint64(InvalidUIDGID),
	"FUSE_IOCTL":                   uint64(OpIoctl),
	"FUSE_IOCTL_32BIT":             uint64(Ioctl32bit),
	"FUSE_IOCTL_COMPAT":            uint64(IoctlCompat),
	"FUSE_IOCTL_COMPAT_X32":        uint64(IoctlCompatX32),
	"FUSE_IOCTL_DIR":               uint64(IoctlDir),
	"FUSE_IOCTL_MAX_IOV":           uint64(IoctlMaxIov),
	"FUSE_IOCTL_RETRY":             uint64(IoctlRetry),
	"FUSE_IOCTL_UNRESTRICTED":      uint64(IoctlUnrestricted),
	"FUSE_KERNEL_MINOR_VERSION":    uint64(KernelMinorVersion),
	"FUSE_KERNEL_VERSION":          uint64(KernelVersion),
	"FUSE_LINK":                    uint64(OpLink),
	"FUSE_LISTXATTR":               uint64(OpListxattr),
	"FUSE_LK_FLOCK":                uint64(LkFlock),
	"FUSE_LOOKUP":                  uint64(OpLookup),
	"FUSE_LSEEK":                   uint64(OpLseek),
	"FUSE_MAP_ALIGNMENT":           uint64(InitMapAlignment),
	"FUSE_MAX_NR_SECCTX":           uint64(MaxNrSecctx),
	"FUSE_MAX_PAGES":               uint64(InitMaxPages),
	"FUSE_MKDIR":                   uint64(OpMkdir),
	"FUSE_MKNOD":                   uint64(OpMknod),
	"FUSE_NOTIFY_DELETE":           uint64(NotifyDelete),
	"FUSE_NOTIFY_INC_EPOCH":        uint64(NotifyIncEpoch),
	"FUSE_NOTIFY_INVAL_ENTRY":      uint64(NotifyInvalEntry),
	"FUSE_NOTIFY_INVAL_INODE":      uint64(NotifyInvalInode),
	"FUSE_NOTIFY_POLL":             uint64(NotifyPoll),
	"FUSE_NOTIFY_PRUNE":            uint64(NotifyPrune),
	"FUSE_NOTIFY_REPLY":            uint64(OpNotifyReply),
	"FUSE_NOTIFY_RESEND":           uint64(NotifyResend),
	"FUSE_NOTIFY_RETRIEVE":         uint64(NotifyRetrieve),
	"FUSE_NOTIFY_STORE":            uint64(NotifyStore),
	"FUSE_NO_EXPORT_SUPPORT":       uint64(InitNoExportSupport),
	"FUSE_NO_OPENDIR_SUPPORT":      uint64(InitNoOpendirSupport),
	"FUSE_NO_OPEN_SUPPORT":         uint64(InitNoOpenSupport),
	"FUSE_OPEN":                    uint64(OpOpen),
	"FUSE_OPENDIR":                 uint64(OpOpendir),
	"FUSE_OPEN_KILL_SUIDGID":       uint64(OpenKillSuidgid),
	"FUSE_OVER_IO_URING":           uint64(InitOverIOUring),
	"FUSE_PARALLEL_DIROPS":         uint64(InitParallelDirops),
	"FUSE_PASSTHROUGH":             uint64(InitPassthrough),
	"FUSE_POLL":                    uint64(OpPoll),
	"FUSE_POLL_SCHEDULE_NOTIFY":    uint64(PollScheduleNotify),
	"FUSE_POSIX_ACL":               uint64(InitPosixACL),
	"FUSE_POSIX_LOCKS":             uint64(InitPosixLocks),
	"FUSE_READ":                    uint64(OpRead),
	"FUSE_READDIR":                 uint64(OpReaddir),
	"FUSE_READDIRPLUS":             uint64(OpReaddirplus),
	"FUSE_READDIRPLUS_AUTO":        uint64(InitReaddirplusAuto),
	"FUSE_READLINK":                uint64(OpReadlink),
	"FUSE_READ_LOCKOWNER":          uint64(ReadLockowner),
	"FUSE_RELEASE":                 uint64(OpRelease),
	"FUSE_RELEASEDIR":              uint64(OpReleasedir),
	"FUSE_RELEASE_FLOCK_UNLOCK":    uint64(ReleaseFlockUnlock),
	"FUSE_RELEASE_FLUSH":           uint64(ReleaseFlush),
	"FUSE_REMOVEMAPPING":           uint64(OpRemoveMapping),
	"FUSE_REMOVEXATTR":             uint64(OpRemovexattr),
	"FUSE_RENAME":                  uint64(OpRename),
	"FUSE_RENAME2":                 uint64(OpRename2),
	"FUSE_REQUEST_TIMEOUT":         uint64(InitRequestTimeout),
	"FUSE_RMDIR":                   uint64(OpRmdir),
	"FUSE_ROOT_ID":                 uint64(RootID),
	"FUSE_SECURITY_CTX":            uint64(InitSecurityCtx),
	"FUSE_SETATTR":                 uint64(OpSetattr),
	"FUSE_SETLK":                   uint64(OpSetlk),
	"FUSE_SETLKW":                  uint64(OpSetlkw),
	"FUSE_SETUPMAPPING":            uint64(OpSetupMapping),
	"FUSE_SETUPMAPPING_FLAG_READ":  uint64(SetupMappingRead),
	"FUSE_SETUPMAPPING_FLAG_WRITE": uint64(SetupMappingWrite),
	"FUSE_SETXATTR":                uint64(OpSetxattr),
	"FUSE_SETXATTR_ACL_KILL_SGID":  uint64(SetxattrACLKillSgid),
	"FUSE_SETXATTR_EXT":            uint64(InitSetxattrExt),
	"FUSE_SPLICE_MOVE":             uint64(InitSpliceMove),
	"FUSE_SPLICE_READ":             uint64(InitSpliceRead),
	"FUSE_SPLICE_WRITE":            uint64(InitSpliceWrite),
	"FUSE_STATFS":                  uint64(OpStatfs),
	"FUSE_STATX":                   uint64(OpStatx),
	"FUSE_SUBMOUNTS":               uint64(InitSubmounts),
	"FUSE_SYMLINK":                 uint64(OpSymlink),
	"FUSE_SYNCFS":                  uint64(OpSyncfs),
	"FUSE_TMPFILE":                 uint64(OpTmpfile),
	"FUSE_UNIQUE_RESEND":           uint64(UniqueResend),
	"FUSE_UNLINK":                  uint64(OpUnlink),
	"FUSE_WRITE":                   uint64(OpWrite),
	"FUSE_WRITEBACK_CACHE":         uint64(InitWritebackCache),
	"FUSE_WRITE_CACHE":             uint64(WriteCache),
	"FUSE_WRITE_KILL_SUIDGID":      uint64(WriteKillSuidgid),
	"FUSE_WRITE_LOCKOWNER":         uint64(WriteLockowner),
}

// goName is a field's name in Go, without regard to case.
func goName(field string) string { return strings.ToLower(strings.ReplaceAll(field, "_", "")) }

// cFieldNames are those that Go spells otherwise.
var cFieldNames = map[string]string{"tv_sec": "sec", "tv_nsec": "nsec"}

// TestLayout compares every struct, field and constant with what a C compiler made of
// the kernel's header: testdata/layout.txt, which testdata/layout.c prints.
func TestLayout(t *testing.T) {
	f, err := os.Open("testdata/layout.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	checked := 0
	for s := bufio.NewScanner(f); s.Scan(); checked++ {
		w := strings.Fields(s.Text())
		switch w[0] {
		case "struct":
			if got := fmt.Sprint(reflect.TypeOf(cStructs[w[1]]).Size()); got != w[2] {
				t.Errorf("%s has %s bytes, want %s", w[1], got, w[2])
			}
		case "field":
			checkField(t, w[1], w[2], w[3], w[4])
		case "const":
			if v, ok := cConstants[w[1]]; !ok || fmt.Sprint(v) != w[2] {
				t.Errorf("%s is %d, want %s", w[1], v, w[2])
			}
		}
	}
	if want := len(cStructs) + len(cConstants); checked < want {
		t.Errorf("layout.txt has %d lines, less than %d structs and constants", checked, want)
	}
}

func checkField(t *testing.T, name, field, offset, size string) {
	t.Helper()
	want := goName(field)
	if n := cFieldNames[field]; n != "" {
		want = n
	}
	typ := reflect.TypeOf(cStructs[name])
	for i := range typ.NumField() {
		if f := typ.Field(i); strings.ToLower(f.Name) == want {
			if fmt.Sprint(f.Offset) != offset || fmt.Sprint(f.Type.Size()) != size {
				t.Errorf("%s.%s is at %d with %d bytes, want %s with %s", name, field, f.Offset, f.Type.Size(), offset, size)
			}
			return
		}
	}
	t.Errorf("%s has no field for %s", name, field)
}
