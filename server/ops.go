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
	// again says what has to be known before the request is served a second time, because the
	// process died that served it. Every row with a method has it.
	again againClass
	// modifies reports whether this request changes a share; nil is never. It is
	// asked when the body has been copied.
	modifies func(t *thread) bool
	named    bool // what follows the body is the name of a directory entry
	crosses  bool // it may get from a directory to another file system of the host
	handle   func(t *thread) (n int, errno unix.Errno)
}

// againClass says how the successor serves a request that was under way when a process
// died. In each case it first takes back what the request has given the client (lookup
// counts, open files), because the client has not seen the reply.
type againClass uint8

const (
	_ againClass = iota
	// rerun: it changes nothing, or the same once more.
	rerun
	// counted: all that it changes is what the client has: lookup counts and open files.
	counted
	// decide: the method finds out what has happened, by what was noted in the cell before
	// (Request.Again).
	decide
)

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
		fp.OpLookup:        {again: counted, handle: lookup},
		fp.OpForget:        {again: counted, handle: forget},
		fp.OpGetattr:       {again: rerun, handle: getattr},
		fp.OpSetattr:       {again: decide, modifies: always, handle: setattr},
		fp.OpReadlink:      {again: rerun, handle: readlink},
		fp.OpSymlink:       {again: decide, modifies: always, handle: symlink},
		fp.OpMknod:         {again: decide, modifies: always, handle: mknod},
		fp.OpMkdir:         {again: decide, modifies: always, handle: mkdir},
		fp.OpUnlink:        {again: decide, modifies: always, handle: unlink},
		fp.OpRmdir:         {again: decide, modifies: always, handle: rmdir},
		fp.OpRename:        {again: decide, modifies: always, handle: rename},
		fp.OpLink:          {again: decide, modifies: always, handle: link},
		fp.OpOpen:          {again: counted, modifies: opensForWriting, handle: openFile},
		fp.OpRead:          {again: rerun, inPlace: true, handle: read},
		fp.OpWrite:         {again: decide, payload: true, modifies: always, handle: write},
		fp.OpStatfs:        {again: rerun, handle: statfs},
		fp.OpRelease:       {again: decide, handle: release},
		fp.OpFsync:         {again: rerun, handle: fsync},
		fp.OpSetxattr:      {again: decide, modifies: always, handle: setxattr},
		fp.OpGetxattr:      {again: rerun, handle: getxattr},
		fp.OpListxattr:     {again: rerun, handle: listxattr},
		fp.OpRemovexattr:   {again: decide, modifies: always, handle: removexattr},
		fp.OpFlush:         {again: rerun, handle: flush},
		fp.OpInit:          {again: decide, noSession: true, handle: initSession},
		fp.OpOpendir:       {again: counted, handle: opendir},
		fp.OpReaddir:       {again: rerun, handle: readdir},
		fp.OpReleasedir:    {again: decide, handle: releasedir},
		fp.OpFsyncdir:      {again: rerun, handle: fsyncdir},
		fp.OpGetlk:         {again: rerun, needs: locks, handle: getlk},
		fp.OpSetlk:         {again: rerun, needs: locks, handle: setlk},
		fp.OpSetlkw:        {again: rerun, waits: true, lingers: true, needs: locks, handle: setlkw},
		fp.OpAccess:        {again: rerun, handle: access},
		fp.OpCreate:        {again: decide, modifies: always, handle: create},
		fp.OpInterrupt:     {again: rerun, handle: interrupt},
		fp.OpDestroy:       {again: rerun, noSession: true, waits: true, handle: destroy},
		fp.OpIoctl:         {again: rerun, modifies: setsByIoctl, handle: ioctl},
		fp.OpPoll:          {again: rerun, handle: poll},
		fp.OpBatchForget:   {again: counted, handle: batchForget},
		fp.OpFallocate:     {again: decide, modifies: always, handle: fallocate},
		fp.OpReaddirplus:   {again: counted, needs: fp.InitDoReaddirplus, handle: readdirplus},
		fp.OpRename2:       {again: decide, modifies: always, handle: rename2},
		fp.OpLseek:         {again: rerun, handle: lseek},
		fp.OpCopyFileRange: {again: rerun, modifies: always, handle: copyFileRange},
		fp.OpSetupMapping: {again: rerun, waits: true, needs: fp.InitMapAlignment, modifies: mapsForWriting,
			handle: setupMapping},
		fp.OpRemoveMapping:   {again: rerun, waits: true, needs: fp.InitMapAlignment, handle: removeMapping},
		fp.OpSyncfs:          {again: rerun, handle: syncfs},
		fp.OpTmpfile:         {again: counted, modifies: always, handle: tmpfile},
		fp.OpStatx:           {again: rerun, handle: statx},
		fp.OpCopyFileRange64: {again: rerun, modifies: always, handle: copyFileRange64},
	}
	for i := range ops {
		if ops[i].handle != nil {
			ops[i].Shape = *fp.Opcode(i).Shape()
			ops[i].named = ops[i].Names > 0
		}
	}
	for _, o := range []fp.Opcode{fp.OpSetxattr, fp.OpGetxattr, fp.OpRemovexattr} {
		ops[o].named = false
	}
	ops[fp.OpLookup].crosses, ops[fp.OpReaddirplus].crosses = true, true
}

// opensForWriting reports whether an OPEN could change the file.
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
