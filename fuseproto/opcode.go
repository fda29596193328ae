package fuseproto

import "strconv"

// Opcode is the kind of a request, enum fuse_opcode.
type Opcode uint32

const (
	OpLookup          Opcode = 1  // FUSE_LOOKUP
	OpForget          Opcode = 2  // FUSE_FORGET
	OpGetattr         Opcode = 3  // FUSE_GETATTR
	OpSetattr         Opcode = 4  // FUSE_SETATTR
	OpReadlink        Opcode = 5  // FUSE_READLINK
	OpSymlink         Opcode = 6  // FUSE_SYMLINK
	OpMknod           Opcode = 8  // FUSE_MKNOD
	OpMkdir           Opcode = 9  // FUSE_MKDIR
	OpUnlink          Opcode = 10 // FUSE_UNLINK
	OpRmdir           Opcode = 11 // FUSE_RMDIR
	OpRename          Opcode = 12 // FUSE_RENAME
	OpLink            Opcode = 13 // FUSE_LINK
	OpOpen            Opcode = 14 // FUSE_OPEN
	OpRead            Opcode = 15 // FUSE_READ
	OpWrite           Opcode = 16 // FUSE_WRITE
	OpStatfs          Opcode = 17 // FUSE_STATFS
	OpRelease         Opcode = 18 // FUSE_RELEASE
	OpFsync           Opcode = 20 // FUSE_FSYNC
	OpSetxattr        Opcode = 21 // FUSE_SETXATTR
	OpGetxattr        Opcode = 22 // FUSE_GETXATTR
	OpListxattr       Opcode = 23 // FUSE_LISTXATTR
	OpRemovexattr     Opcode = 24 // FUSE_REMOVEXATTR
	OpFlush           Opcode = 25 // FUSE_FLUSH
	OpInit            Opcode = 26 // FUSE_INIT
	OpOpendir         Opcode = 27 // FUSE_OPENDIR
	OpReaddir         Opcode = 28 // FUSE_READDIR
	OpReleasedir      Opcode = 29 // FUSE_RELEASEDIR
	OpFsyncdir        Opcode = 30 // FUSE_FSYNCDIR
	OpGetlk           Opcode = 31 // FUSE_GETLK
	OpSetlk           Opcode = 32 // FUSE_SETLK
	OpSetlkw          Opcode = 33 // FUSE_SETLKW
	OpAccess          Opcode = 34 // FUSE_ACCESS
	OpCreate          Opcode = 35 // FUSE_CREATE
	OpInterrupt       Opcode = 36 // FUSE_INTERRUPT
	OpBmap            Opcode = 37 // FUSE_BMAP
	OpDestroy         Opcode = 38 // FUSE_DESTROY
	OpIoctl           Opcode = 39 // FUSE_IOCTL
	OpPoll            Opcode = 40 // FUSE_POLL
	OpNotifyReply     Opcode = 41 // FUSE_NOTIFY_REPLY
	OpBatchForget     Opcode = 42 // FUSE_BATCH_FORGET
	OpFallocate       Opcode = 43 // FUSE_FALLOCATE
	OpReaddirplus     Opcode = 44 // FUSE_READDIRPLUS
	OpRename2         Opcode = 45 // FUSE_RENAME2
	OpLseek           Opcode = 46 // FUSE_LSEEK
	OpCopyFileRange   Opcode = 47 // FUSE_COPY_FILE_RANGE
	OpSetupMapping    Opcode = 48 // FUSE_SETUPMAPPING
	OpRemoveMapping   Opcode = 49 // FUSE_REMOVEMAPPING
	OpSyncfs          Opcode = 50 // FUSE_SYNCFS
	OpTmpfile         Opcode = 51 // FUSE_TMPFILE
	OpStatx           Opcode = 52 // FUSE_STATX
	OpCopyFileRange64 Opcode = 53 // FUSE_COPY_FILE_RANGE_64
)

// NumOpcodes is one more than the largest opcode.
const NumOpcodes = 54

// String is the name in the kernel header without FUSE_, or the number.
func (o Opcode) String() string {
	if name := o.Shape().Name; name != "" {
		return name
	}
	return "opcode " + strconv.FormatUint(uint64(o), 10)
}
