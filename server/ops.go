package server

import (
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// op is what the server knows about one opcode.
type op struct {
	in      int  // least length of the body, in bytes
	out     int  // length of the fixed reply: room that must be there
	noReply bool // the client waits for no answer
	names   int  // how many names follow the body, for trace lines
	payload bool // file data follows the body and is not copied
	inPlace bool // the method writes its reply in the client's buffers
	// noSession: served before INIT too.
	noSession bool
	// waits: the method waits in Go, not in a system call, when MayWait is set.
	waits bool
	// lingers: what it waits for is another client, which may take for ever.
	lingers bool
	// needs are features of which one must have been agreed on; 0 is none. Without
	// it the answer is ENOSYS.
	needs fp.InitFlags
	// modifies tells whether this request changes a share; nil is never. It is
	// asked when the body has been copied.
	modifies func(t *Thread) bool
	handle   func(t *Thread) (n int, errno unix.Errno)
}

func always(*Thread) bool { return true }

func size[T fp.Body]() int { var v T; return int(unsafe.Sizeof(v)) }

// ops is indexed by opcode; a row without handle is not implemented.
var ops [fp.NumOpcodes]op

var unknownOp op

func opOf(o fp.Opcode) *op {
	if o < fp.NumOpcodes {
		return &ops[o]
	}
	return &unknownOp
}

// The table is filled in at start-up because its handlers refer to it.
func init() {
	const locks = fp.InitPosixLocks | fp.InitFlockLocks
	entry, attr, open := size[fp.EntryOut](), size[fp.AttrOut](), size[fp.OpenOut]()
	ops = [fp.NumOpcodes]op{
		fp.OpLookup:      {names: 1, out: entry, handle: lookup},
		fp.OpForget:      {in: size[fp.ForgetIn](), noReply: true, handle: forget},
		fp.OpGetattr:     {in: size[fp.GetattrIn](), out: attr, handle: getattr},
		fp.OpSetattr:     {in: size[fp.SetattrIn](), out: attr, modifies: always, handle: setattr},
		fp.OpReadlink:    {handle: readlink},
		fp.OpSymlink:     {names: 2, out: entry, modifies: always, handle: symlink},
		fp.OpMknod:       {in: size[fp.MknodIn](), names: 1, out: entry, modifies: always, handle: mknod},
		fp.OpMkdir:       {in: size[fp.MkdirIn](), names: 1, out: entry, modifies: always, handle: mkdir},
		fp.OpUnlink:      {names: 1, modifies: always, handle: unlink},
		fp.OpRmdir:       {names: 1, modifies: always, handle: rmdir},
		fp.OpRename:      {in: size[fp.RenameIn](), names: 2, modifies: always, handle: rename},
		fp.OpLink:        {in: size[fp.LinkIn](), names: 1, out: entry, modifies: always, handle: link},
		fp.OpOpen:        {in: size[fp.OpenIn](), out: open, modifies: opensForWriting, handle: openFile},
		fp.OpRead:        {in: size[fp.ReadIn](), inPlace: true, handle: read},
		fp.OpWrite:       {in: size[fp.WriteIn](), out: size[fp.WriteOut](), payload: true, modifies: always, handle: write},
		fp.OpStatfs:      {out: size[fp.StatfsOut](), handle: statfs},
		fp.OpRelease:     {in: size[fp.ReleaseIn](), handle: release},
		fp.OpFsync:       {in: size[fp.FsyncIn](), handle: fsync},
		fp.OpSetxattr:    {in: fp.CompatSetxattrInSize, modifies: always, handle: setxattr},
		fp.OpGetxattr:    {in: size[fp.GetxattrIn](), names: 1, handle: getxattr},
		fp.OpListxattr:   {in: size[fp.GetxattrIn](), handle: listxattr},
		fp.OpRemovexattr: {names: 1, modifies: always, handle: removexattr},
		fp.OpFlush:       {in: size[fp.FlushIn](), handle: flush},
		fp.OpInit:        {in: fp.CompatInitInSize, out: fp.CompatInitOutSize, noSession: true, handle: initSession},
		fp.OpOpendir:     {in: size[fp.OpenIn](), out: open, handle: opendir},
		fp.OpReaddir:     {in: size[fp.ReadIn](), handle: readdir},
		fp.OpReleasedir:  {in: size[fp.ReleaseIn](), handle: releasedir},
		fp.OpFsyncdir:    {in: size[fp.FsyncIn](), handle: fsyncdir},
		fp.OpGetlk:       {in: size[fp.LkIn](), out: size[fp.LkOut](), needs: locks, handle: getlk},
		fp.OpSetlk:       {in: size[fp.LkIn](), needs: locks, handle: setlk},
		fp.OpSetlkw:      {in: size[fp.LkIn](), waits: true, lingers: true, needs: locks, handle: setlkw},
		fp.OpAccess:      {in: size[fp.AccessIn](), handle: access},
		fp.OpCreate:      {in: size[fp.CreateIn](), names: 1, out: size[fp.CreateOut](), modifies: always, handle: create},
		fp.OpInterrupt:   {in: size[fp.InterruptIn](), noReply: true, handle: interrupt},
		fp.OpDestroy:     {noSession: true, waits: true, handle: destroy},
		fp.OpIoctl:       {in: size[fp.IoctlIn](), out: size[fp.IoctlOut](), modifies: setsByIoctl, handle: ioctl},
		fp.OpPoll:        {in: size[fp.PollIn](), out: size[fp.PollOut](), handle: poll},
		fp.OpBatchForget: {in: size[fp.BatchForgetIn](), noReply: true, handle: batchForget},
		fp.OpFallocate:   {in: size[fp.FallocateIn](), modifies: always, handle: fallocate},
		fp.OpReaddirplus: {in: size[fp.ReadIn](), needs: fp.InitDoReaddirplus, handle: readdirplus},
		fp.OpRename2:     {in: size[fp.Rename2In](), names: 2, modifies: always, handle: rename2},
		fp.OpLseek:       {in: size[fp.LseekIn](), out: size[fp.LseekOut](), handle: lseek},
		fp.OpCopyFileRange: {in: size[fp.CopyFileRangeIn](), out: size[fp.WriteOut](), modifies: always,
			handle: copyFileRange},
		fp.OpSetupMapping: {in: size[fp.SetupMappingIn](), waits: true, needs: fp.InitMapAlignment,
			modifies: mapsForWriting, handle: setupMapping},
		fp.OpRemoveMapping: {in: size[fp.RemoveMappingIn](), waits: true, needs: fp.InitMapAlignment,
			handle: removeMapping},
		fp.OpSyncfs:  {handle: syncfs},
		fp.OpTmpfile: {in: size[fp.CreateIn](), out: size[fp.CreateOut](), modifies: always, handle: tmpfile},
		fp.OpStatx:   {in: size[fp.StatxIn](), out: size[fp.StatxOut](), handle: statx},
		fp.OpCopyFileRange64: {in: size[fp.CopyFileRangeIn](), out: size[fp.CopyFileRangeOut](), modifies: always,
			handle: copyFileRange64},
	}
}

// opensForWriting tells whether an OPEN could change the file.
func opensForWriting(t *Thread) bool {
	in, _, _ := fp.View[fp.OpenIn](t.args)
	return in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0
}

func mapsForWriting(t *Thread) bool {
	in, _, _ := fp.View[fp.SetupMappingIn](t.args)
	return in.Flags&fp.SetupMappingWrite != 0
}

// Bits of an ioctl command that say which way the argument goes
// (include/uapi/asm-generic/ioctl.h).
const iocWrite = 1 << 30

// Commands that pass an argument in only to say what is to be read.
const (
	fsIocFiemap             = 0xc020660b
	fsIocMeasureVerity      = 0xc0046686
	fsIocReadVerityMetadata = 0xc0286687
)

// setsByIoctl takes every command with an argument for one that changes something,
// known readers excepted. A file system that has others checks them itself.
func setsByIoctl(t *Thread) bool {
	in, _, _ := fp.View[fp.IoctlIn](t.args)
	switch in.Cmd {
	case fsIocFiemap, fsIocMeasureVerity, fsIocReadVerityMetadata:
		return false
	}
	return in.Cmd&iocWrite != 0
}

// in is the request's body, whose length was checked, and what follows it.
func in[T fp.Body](t *Thread) (*T, []byte) {
	v, rest, _ := fp.View[T](t.args)
	return v, rest
}

// out is the reply's body, which is zero.
func out[T fp.Body](t *Thread) *T {
	v, _, _ := fp.View[T](t.out)
	return v
}

// done is the result of a method with a fixed reply of T.
func done[T fp.Body](errno unix.Errno) (int, unix.Errno) {
	return size[T](), errno
}
