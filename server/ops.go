package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// op is what the server knows about one opcode.
type op struct {
	fp.Shape      // zero in a row without handle
	payload  bool // the data that follows the body stays in the client's buffers
	inPlace  bool // the method writes its reply in the client's buffers
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
	modifies func(t *thread) bool
	handle   func(t *thread) (n int, errno unix.Errno)
}

func always(*thread) bool { return true }

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
	ops = [fp.NumOpcodes]op{
		fp.OpLookup:        {handle: lookup},
		fp.OpForget:        {handle: forget},
		fp.OpGetattr:       {handle: getattr},
		fp.OpSetattr:       {modifies: always, handle: setattr},
		fp.OpReadlink:      {handle: readlink},
		fp.OpSymlink:       {modifies: always, handle: symlink},
		fp.OpMknod:         {modifies: always, handle: mknod},
		fp.OpMkdir:         {modifies: always, handle: mkdir},
		fp.OpUnlink:        {modifies: always, handle: unlink},
		fp.OpRmdir:         {modifies: always, handle: rmdir},
		fp.OpRename:        {modifies: always, handle: rename},
		fp.OpLink:          {modifies: always, handle: link},
		fp.OpOpen:          {modifies: opensForWriting, handle: openFile},
		fp.OpRead:          {inPlace: true, handle: read},
		fp.OpWrite:         {payload: true, modifies: always, handle: write},
		fp.OpStatfs:        {handle: statfs},
		fp.OpRelease:       {handle: release},
		fp.OpFsync:         {handle: fsync},
		fp.OpSetxattr:      {modifies: always, handle: setxattr},
		fp.OpGetxattr:      {handle: getxattr},
		fp.OpListxattr:     {handle: listxattr},
		fp.OpRemovexattr:   {modifies: always, handle: removexattr},
		fp.OpFlush:         {handle: flush},
		fp.OpInit:          {noSession: true, handle: initSession},
		fp.OpOpendir:       {handle: opendir},
		fp.OpReaddir:       {handle: readdir},
		fp.OpReleasedir:    {handle: releasedir},
		fp.OpFsyncdir:      {handle: fsyncdir},
		fp.OpGetlk:         {needs: locks, handle: getlk},
		fp.OpSetlk:         {needs: locks, handle: setlk},
		fp.OpSetlkw:        {waits: true, lingers: true, needs: locks, handle: setlkw},
		fp.OpAccess:        {handle: access},
		fp.OpCreate:        {modifies: always, handle: create},
		fp.OpInterrupt:     {handle: interrupt},
		fp.OpDestroy:       {noSession: true, waits: true, handle: destroy},
		fp.OpIoctl:         {modifies: setsByIoctl, handle: ioctl},
		fp.OpPoll:          {handle: poll},
		fp.OpBatchForget:   {handle: batchForget},
		fp.OpFallocate:     {modifies: always, handle: fallocate},
		fp.OpReaddirplus:   {needs: fp.InitDoReaddirplus, handle: readdirplus},
		fp.OpRename2:       {modifies: always, handle: rename2},
		fp.OpLseek:         {handle: lseek},
		fp.OpCopyFileRange: {modifies: always, handle: copyFileRange},
		fp.OpSetupMapping: {waits: true, needs: fp.InitMapAlignment, modifies: mapsForWriting,
			handle: setupMapping},
		fp.OpRemoveMapping:   {waits: true, needs: fp.InitMapAlignment, handle: removeMapping},
		fp.OpSyncfs:          {handle: syncfs},
		fp.OpTmpfile:         {modifies: always, handle: tmpfile},
		fp.OpStatx:           {handle: statx},
		fp.OpCopyFileRange64: {modifies: always, handle: copyFileRange64},
	}
	for i := range ops {
		if ops[i].handle != nil {
			ops[i].Shape = *fp.Opcode(i).Shape()
		}
	}
}

// opensForWriting tells whether an OPEN could change the file.
func opensForWriting(t *thread) bool {
	in, _, _ := fp.View[fp.OpenIn](t.args)
	return in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0
}

func mapsForWriting(t *thread) bool {
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
func setsByIoctl(t *thread) bool {
	in, _, _ := fp.View[fp.IoctlIn](t.args)
	switch in.Cmd {
	case fsIocFiemap, fsIocMeasureVerity, fsIocReadVerityMetadata:
		return false
	}
	return in.Cmd&iocWrite != 0
}

// in is the request's body, whose length was checked, and what follows it.
func in[T fp.Body](t *thread) (*T, []byte) {
	v, rest, _ := fp.View[T](t.args)
	return v, rest
}

// out is the reply's body, which is zero.
func out[T fp.Body](t *thread) *T {
	v, _, _ := fp.View[T](t.out)
	return v
}

// done is the result of a method with a fixed reply of T.
func done[T fp.Body](errno unix.Errno) (int, unix.Errno) {
	return fp.Size[T](), errno
}
