package fuseproto

// Shape says what a request of one opcode and its reply consist of. A request is its header,
// a fixed body, names, and data; a reply is its header, a fixed body and data. Extensions of
// the header (TotalExtLen) come at the end of a request.
type Shape struct {
	Name    string // of the opcode, in the kernel header, without FUSE_
	Body    int    // bytes of the request's fixed body; of more than one form the shortest
	Names   int    // names that follow, each with a NUL byte
	Reply   int    // bytes of the fixed body of a reply without an error; of more than one form the shortest
	NoReply bool   // the client waits for no answer
	Data    Direction
}

// Direction says which way data of variable length goes: contents of files and directories,
// values, lists. It is a set of bits.
type Direction uint8

const (
	ToServer   Direction = 1 << iota // data follows the request's body and names
	FromServer                       // data follows the reply's body
)

// Shape describes the opcode's requests. All of it is zero if the number is unknown. It is
// shared and not to be changed.
func (o Opcode) Shape() *Shape {
	if o < NumOpcodes {
		return &shapes[o]
	}
	return &unknownShape
}

var unknownShape Shape

// shapes is indexed by opcode (include/uapi/linux/fuse.h; what is sent is in fs/fuse/*.c).
var shapes = [NumOpcodes]Shape{
	OpLookup:          {Name: "LOOKUP", Names: 1, Reply: Size[EntryOut]()},
	OpForget:          {Name: "FORGET", Body: Size[ForgetIn](), NoReply: true},
	OpGetattr:         {Name: "GETATTR", Body: Size[GetattrIn](), Reply: Size[AttrOut]()},
	OpSetattr:         {Name: "SETATTR", Body: Size[SetattrIn](), Reply: Size[AttrOut]()},
	OpReadlink:        {Name: "READLINK", Data: FromServer},
	OpSymlink:         {Name: "SYMLINK", Names: 2, Reply: Size[EntryOut]()},
	OpMknod:           {Name: "MKNOD", Body: Size[MknodIn](), Names: 1, Reply: Size[EntryOut]()},
	OpMkdir:           {Name: "MKDIR", Body: Size[MkdirIn](), Names: 1, Reply: Size[EntryOut]()},
	OpUnlink:          {Name: "UNLINK", Names: 1},
	OpRmdir:           {Name: "RMDIR", Names: 1},
	OpRename:          {Name: "RENAME", Body: Size[RenameIn](), Names: 2},
	OpLink:            {Name: "LINK", Body: Size[LinkIn](), Names: 1, Reply: Size[EntryOut]()},
	OpOpen:            {Name: "OPEN", Body: Size[OpenIn](), Reply: Size[OpenOut]()},
	OpRead:            {Name: "READ", Body: Size[ReadIn](), Data: FromServer},
	OpWrite:           {Name: "WRITE", Body: Size[WriteIn](), Reply: Size[WriteOut](), Data: ToServer},
	OpStatfs:          {Name: "STATFS", Reply: Size[StatfsOut]()},
	OpRelease:         {Name: "RELEASE", Body: Size[ReleaseIn]()},
	OpFsync:           {Name: "FSYNC", Body: Size[FsyncIn]()},
	OpSetxattr:        {Name: "SETXATTR", Body: CompatSetxattrInSize, Names: 1, Data: ToServer},
	OpGetxattr:        {Name: "GETXATTR", Body: Size[GetxattrIn](), Names: 1, Data: FromServer},
	OpListxattr:       {Name: "LISTXATTR", Body: Size[GetxattrIn](), Data: FromServer},
	OpRemovexattr:     {Name: "REMOVEXATTR", Names: 1},
	OpFlush:           {Name: "FLUSH", Body: Size[FlushIn]()},
	OpInit:            {Name: "INIT", Body: CompatInitInSize, Reply: CompatInitOutSize},
	OpOpendir:         {Name: "OPENDIR", Body: Size[OpenIn](), Reply: Size[OpenOut]()},
	OpReaddir:         {Name: "READDIR", Body: Size[ReadIn](), Data: FromServer},
	OpReleasedir:      {Name: "RELEASEDIR", Body: Size[ReleaseIn]()},
	OpFsyncdir:        {Name: "FSYNCDIR", Body: Size[FsyncIn]()},
	OpGetlk:           {Name: "GETLK", Body: Size[LkIn](), Reply: Size[LkOut]()},
	OpSetlk:           {Name: "SETLK", Body: Size[LkIn]()},
	OpSetlkw:          {Name: "SETLKW", Body: Size[LkIn]()},
	OpAccess:          {Name: "ACCESS", Body: Size[AccessIn]()},
	OpCreate:          {Name: "CREATE", Body: Size[CreateIn](), Names: 1, Reply: Size[CreateOut]()},
	OpInterrupt:       {Name: "INTERRUPT", Body: Size[InterruptIn](), NoReply: true},
	OpBmap:            {Name: "BMAP", Body: Size[BmapIn](), Reply: Size[BmapOut]()},
	OpDestroy:         {Name: "DESTROY"},
	OpIoctl:           {Name: "IOCTL", Body: Size[IoctlIn](), Reply: Size[IoctlOut](), Data: ToServer | FromServer},
	OpPoll:            {Name: "POLL", Body: Size[PollIn](), Reply: Size[PollOut]()},
	OpNotifyReply:     {Name: "NOTIFY_REPLY", Body: Size[NotifyRetrieveIn](), NoReply: true, Data: ToServer},
	OpBatchForget:     {Name: "BATCH_FORGET", Body: Size[BatchForgetIn](), NoReply: true, Data: ToServer},
	OpFallocate:       {Name: "FALLOCATE", Body: Size[FallocateIn]()},
	OpReaddirplus:     {Name: "READDIRPLUS", Body: Size[ReadIn](), Data: FromServer},
	OpRename2:         {Name: "RENAME2", Body: Size[Rename2In](), Names: 2},
	OpLseek:           {Name: "LSEEK", Body: Size[LseekIn](), Reply: Size[LseekOut]()},
	OpCopyFileRange:   {Name: "COPY_FILE_RANGE", Body: Size[CopyFileRangeIn](), Reply: Size[WriteOut]()},
	OpSetupMapping:    {Name: "SETUPMAPPING", Body: Size[SetupMappingIn]()},
	OpRemoveMapping:   {Name: "REMOVEMAPPING", Body: Size[RemoveMappingIn](), Data: ToServer},
	OpSyncfs:          {Name: "SYNCFS", Body: Size[SyncfsIn]()},
	OpTmpfile:         {Name: "TMPFILE", Body: Size[CreateIn](), Names: 1, Reply: Size[CreateOut]()},
	OpStatx:           {Name: "STATX", Body: Size[StatxIn](), Reply: Size[StatxOut]()},
	OpCopyFileRange64: {Name: "COPY_FILE_RANGE_64", Body: Size[CopyFileRangeIn](), Reply: Size[CopyFileRangeOut]()},
}

// ReplyData is the number of bytes that a reply may have behind its header, for those
// opcodes whose body says so; 0 for all others. body is the request's body, aligned to 8
// bytes. The client chooses the number, so the caller must bound it before it allocates that
// much.
func (o Opcode) ReplyData(body []byte) int {
	switch o {
	case OpRead, OpReaddir, OpReaddirplus:
		if in, _, ok := View[ReadIn](body); ok {
			return int(in.Size)
		}
	case OpGetxattr, OpListxattr:
		if in, _, ok := View[GetxattrIn](body); ok {
			return int(in.Size) // 0 asks for the length, in a fixed reply
		}
	case OpIoctl:
		if in, _, ok := View[IoctlIn](body); ok {
			return Size[IoctlOut]() + int(in.OutSize)
		}
	}
	return 0
}
