package stretch

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Size is the size of a stretched file in bytes. It is larger than any offset of a mapping, and
// sums of offsets do not overflow.
const Size = 1 << 62

const (
	// requestSize is the smallest buffer that a FUSE server may have (FUSE_MIN_READ_BUFFER).
	// The requests to this server are shorter.
	requestSize = 8192
	// forEver is how long attributes are valid, in seconds.
	forEver = 1 << 31
	// stacked allows files of file systems that are stacked themselves (overlayfs);
	// FILESYSTEM_MAX_STACK_DEPTH.
	stacked = 2
)

// fileSystem answers the kernel. It has an empty root directory, and at most one name: the
// name of the file that is being opened.
type fileSystem struct {
	dev int

	mu      sync.Mutex // guards the following; a leaf
	node    uint64     // node id of the current name; 0: there is none
	backing int32      // backing id of its file
	failed  error      // why INIT has failed
}

// serve answers until the mount is gone.
func (f *fileSystem) serve() error {
	words := make([]uint64, requestSize/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), requestSize)
	for {
		n, err := unix.Read(f.dev, b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT:
			continue
		case err == unix.ENODEV:
			return nil
		case err != nil:
			return fmt.Errorf("stretch: read of /dev/fuse: %w", err)
		}
		h, body, ok := fp.View[fp.InHeader](b[:n])
		if !ok {
			return errors.New("stretch: short FUSE request")
		}
		if err := f.handle(h, body); err != nil {
			return err
		}
	}
}

// handle answers one request.
func (f *fileSystem) handle(h *fp.InHeader, body []byte) error {
	switch fp.Opcode(h.Opcode) {
	case fp.OpForget, fp.OpBatchForget, fp.OpInterrupt:
		return nil
	case fp.OpInit:
		return f.init(h, body)
	case fp.OpLookup:
		return f.lookup(h, body)
	case fp.OpGetattr:
		out := fp.AttrOut{AttrValid: forEver, Attr: attr(h.NodeID)}
		return f.reply(h, 0, fp.Bytes(&out))
	case fp.OpOpen:
		return f.open(h)
	case fp.OpUnlink, fp.OpRelease, fp.OpFlush:
		return f.reply(h, 0, nil)
	}
	return f.reply(h, unix.ENOSYS, nil)
}

func (f *fileSystem) init(h *fp.InHeader, body []byte) error {
	in, _, ok := fp.View[fp.InitIn](body)
	if !ok || in.Major != fp.KernelVersion || in.InitFlags()&fp.InitPassthrough == 0 {
		f.mu.Lock()
		f.failed = errors.New("stretch: the kernel has no FUSE_PASSTHROUGH (Linux 6.9)")
		f.mu.Unlock()
		return f.reply(h, unix.EPROTO, nil)
	}
	flags := fp.InitExt | fp.InitPassthrough
	out := fp.InitOut{Major: fp.KernelVersion, Minor: min(in.Minor, fp.KernelMinorVersion), Flags: uint32(flags & (1<<32 - 1)),
		Flags2: uint32(flags >> 32), MaxWrite: 4096, TimeGran: 1, MaxStackDepth: stacked}
	return f.reply(h, 0, fp.Bytes(&out))
}

// lookup finds the current node by its name.
func (f *fileSystem) lookup(h *fp.InHeader, body []byte) error {
	name, _, errno := fp.ParseName(body)
	f.mu.Lock()
	node := f.node
	f.mu.Unlock()
	if errno != 0 || node == 0 || string(name.Bytes()) != nodeName(node) {
		return f.reply(h, unix.ENOENT, nil)
	}
	out := fp.EntryOut{NodeID: node, AttrValid: forEver, Attr: attr(node)}
	return f.reply(h, 0, fp.Bytes(&out))
}

func (f *fileSystem) open(h *fp.InHeader) error {
	f.mu.Lock()
	node, backing := f.node, f.backing
	f.mu.Unlock()
	if node == 0 || h.NodeID != node {
		return f.reply(h, unix.EACCES, nil)
	}
	out := fp.OpenOut{OpenFlags: fp.FopenPassthrough | fp.FopenNoflush, BackingID: backing}
	return f.reply(h, 0, fp.Bytes(&out))
}

// attr returns the attributes of a directory for the root, and of a long file for all other
// nodes.
func attr(node uint64) fp.Attr {
	if node == fp.RootID {
		return fp.Attr{Ino: node, Mode: unix.S_IFDIR | 0o700, Nlink: 2, Blksize: 4096}
	}
	return fp.Attr{Ino: node, Mode: unix.S_IFREG | 0o600, Nlink: 1, Size: Size, Blksize: 4096}
}

func nodeName(node uint64) string { return strconv.FormatUint(node, 16) }

// reply writes a reply. The kernel refuses the reply to an interrupted request; this is not an
// error.
func (f *fileSystem) reply(h *fp.InHeader, errno unix.Errno, body []byte) error {
	out := fp.OutHeader{Unique: h.Unique, Error: -int32(errno)}
	b := fp.Bytes(&out)
	out.Len = uint32(len(b) + len(body))
	_, err := unix.Writev(f.dev, [][]byte{b, body})
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("stretch: write to /dev/fuse: %w", err)
	}
	return nil
}
