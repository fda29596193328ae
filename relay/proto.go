package relay

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// What differs between minor versions of the protocol (include/uapi/linux/fuse.h, and FUSE_COMPAT_* there).
const (
	minMinor = 5 // INIT without max_write before; no program of today is older

	compatAttrSize  = 80 // fuse_attr without blksize, before 7.9
	compatWriteSize = 24 // fuse_write_in before 7.9
	compatMknodSize = 8  // fuse_mknod_in before 7.12
	compatOpenSize  = 8  // fuse_open_in instead of fuse_create_in before 7.12
)

// since is the minor that first had an opcode, for those that are younger than minMinor. A program does not get an
// opcode that its minor does not have: it may end over it.
var since = [fp.NumOpcodes]uint32{
	fp.OpGetlk: 7, fp.OpSetlk: 7, fp.OpSetlkw: 7, fp.OpInterrupt: 7, fp.OpIoctl: 11, fp.OpPoll: 11,
	fp.OpNotifyReply: 15, fp.OpBatchForget: 16, fp.OpFallocate: 19, fp.OpReaddirplus: 21, fp.OpRename2: 23,
	fp.OpLseek: 24, fp.OpCopyFileRange: 28, fp.OpSyncfs: 34, fp.OpTmpfile: 37, fp.OpStatx: 39,
}

// compat is the body as the program's minor has it.
func (c *call) compat(minor uint32) []byte {
	b := c.bodyBytes()[:c.bodySize]
	switch op := fp.Opcode(c.header.Opcode); {
	case op == fp.OpGetattr && minor < 9:
		return b[:0]
	case op == fp.OpWrite && minor < 9:
		return b[:compatWriteSize]
	case op == fp.OpMknod && minor < 12:
		return b[:compatMknodSize]
	case op == fp.OpCreate && minor < 12:
		(*fp.CreateIn)(pointer(b)).Mode &^= unix.S_IFMT
		return b[:compatOpenSize]
	}
	return b
}

// replySize is how many bytes follow a reply's header, and whether that is exact.
func (c *call) replySize(minor uint32) (n int, exact bool) {
	short := 0
	if minor < 9 {
		short = fp.Size[fp.Attr]() - compatAttrSize
	}
	switch c.form {
	case formEntry:
		return fp.Size[fp.EntryOut]() - short, true
	case formAttr:
		return fp.Size[fp.AttrOut]() - short, true
	case formOpen:
		return fp.Size[fp.OpenOut](), true
	case formMake:
		return fp.Size[fp.CreateOut]() - short, true
	case formFixed:
		return c.fixedSize, true
	case formBytes:
		return len(c.out), false
	case formData:
		return int(min(c.dst.Len(), math.MaxInt32)), false
	}
	return 0, true
}

// widen brings a fixed reply into the newest form: older ones end with, or have in them, shorter attributes.
func (c *call) widen(minor uint32) {
	if minor >= 9 {
		return
	}
	b := c.fixedBytes()
	switch c.form {
	case formEntry, formAttr:
		n, _ := c.replySize(minor)
		clear(b[n:])
	case formMake:
		entry := fp.Size[fp.EntryOut]()
		copy(b[entry:], b[entry-8:entry-8+fp.Size[fp.OpenOut]()])
		clear(b[entry-8 : entry])
	}
}

// validMode reports whether mode has one of the kinds of files.
func validMode(mode uint32) bool {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		return true
	}
	return false
}

// validAttr is what the kernel checks as well (fs/fuse/dir.c: fuse_invalid_attr).
func validAttr(a *fp.Attr) bool { return validMode(a.Mode) && a.Size <= math.MaxInt64 }

const second = uint64(time.Second)

// capTime lowers a promise to most, if that is not 0.
func capTime(sec *uint64, nsec *uint32, most time.Duration) {
	if *nsec >= uint32(second) {
		*nsec = uint32(second) - 1
	}
	if m := uint64(most); m != 0 && (*sec > m/second || *sec == m/second && uint64(*nsec) > m%second) {
		*sec, *nsec = m/second, uint32(m%second)
	}
}
