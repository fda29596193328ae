package relay

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// model is a FUSE program that does not trust its kernel: what a real kernel would never send is an error of the test.
// It keeps a tree in memory, which outlives its processes, and speaks the minor that it is told.
type model struct {
	t     testing.TB
	minor uint32
	flags fp.InitFlags

	maxWrite uint32
	options  string

	// hook sees each request first. If it returns true it has answered. It is called with hookMu held, and is set with it
	// held, too, once there is a process.
	hookMu sync.Mutex
	hook   func(p *process, h *fp.InHeader, body []byte) bool

	tree sync.Mutex // guards the files, and the numbers of the processes
	root *mfile

	mu       sync.Mutex // guards the following
	starts   int
	current  *process
	failNext error
	requests map[fp.Opcode]int
	wrong    []string
}

// mfile is a file of the tree.
type mfile struct {
	ino      uint64
	mode     uint32
	data     []byte
	names    []string // in order
	children map[string]*mfile
	xattrs   map[string]string
	nlink    uint32
}

// process is one process of the program: its numbers, which look like addresses.
type process struct {
	m    *model
	fd   int
	base uint64
	// Guarded by the model's tree mutex.
	nodes   map[uint64]*mfile
	ids     map[*mfile]uint64
	counts  map[uint64]uint64
	handles map[uint64]*mfile
	given   map[uint64]map[uint64]bool // positions by handle
	next    uint64
	destroy bool
	done    chan struct{}
}

func newModel(t testing.TB, minor uint32) *model {
	m := &model{t: t, minor: minor, flags: offered &^ (fp.InitWritebackCache | fp.InitExt), maxWrite: MaxData,
		root: &mfile{ino: 1, mode: unix.S_IFDIR | 0o755, children: map[string]*mfile{}, nlink: 2}, requests: map[fp.Opcode]int{}}
	return m
}

// add makes a file in the tree.
func (m *model) add(dir *mfile, name string, mode uint32, data string) *mfile {
	f := &mfile{ino: uint64(1000 + len(name) + int(mode)), mode: mode, data: []byte(data), nlink: 1}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		f.children = map[string]*mfile{}
	}
	dir.link(name, f)
	return f
}

func (f *mfile) link(name string, child *mfile) {
	if f.children[name] == nil {
		f.names = append(f.names, name)
	}
	f.children[name] = child
}

func (f *mfile) unlink(name string) {
	delete(f.children, name)
	f.names = slices.DeleteFunc(f.names, func(n string) bool { return n == name })
}

// Mount implements Source.
func (m *model) Mount(context.Context) (*Mounted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starts++
	if err := m.failNext; err != nil {
		m.failNext = nil
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &process{m: m, fd: pair[1], base: 0x5580_0000_0000 + uint64(m.starts)<<32, nodes: map[uint64]*mfile{1: m.root},
		ids: map[*mfile]uint64{m.root: 1}, counts: map[uint64]uint64{}, handles: map[uint64]*mfile{},
		given: map[uint64]map[uint64]bool{}, done: make(chan struct{})}
	m.current = p
	go p.run()
	return &Mounted{Socket: os.NewFile(uintptr(pair[0]), "pair"), Type: "fuse.model", Options: m.options, Done: p.done}, nil
}

func (m *model) process() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// kill ends the process as SIGKILL does.
func (p *process) kill() {
	_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	<-p.done
}

// content is what a file in the root directory has.
func (m *model) content(name string) string {
	m.tree.Lock()
	defer m.tree.Unlock()
	if f := m.root.children[name]; f != nil {
		return string(f.data)
	}
	return "no such file"
}

func (m *model) count(op fp.Opcode) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.requests[op]
}

// violation notes something that a kernel would never send.
func (p *process) violation(format string, args ...any) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if len(p.m.wrong) < 10 {
		p.m.wrong = append(p.m.wrong, fmt.Sprintf(format, args...))
	}
}

// check fails the test if the program was sent what a kernel would never send.
func (m *model) check() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.wrong {
		m.t.Errorf("the program has got: %s", w)
	}
}

func (p *process) run() {
	defer close(p.done)
	defer unix.Close(p.fd)
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(p.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		b := alignedCopy(buf[:n])
		h := (*fp.InHeader)(unsafe.Pointer(unsafe.SliceData(b)))
		if n < inHeaderSize || int(h.Len) != n || h.PID != 0 || h.TotalExtLen != 0 {
			p.violation("a header that is wrong: %+v in %d bytes", *h, n)
			continue
		}
		p.m.mu.Lock()
		p.m.requests[fp.Opcode(h.Opcode)]++
		p.m.mu.Unlock()
		if p.hooked(h, b[inHeaderSize:]) {
			continue
		}
		p.serve(h, b[inHeaderSize:])
	}
}

func (p *process) hooked(h *fp.InHeader, body []byte) bool {
	p.m.hookMu.Lock()
	defer p.m.hookMu.Unlock()
	return p.m.hook != nil && p.m.hook(p, h, body)
}

func alignedCopy(b []byte) []byte {
	words := make([]uint64, len(b)/8+2)
	c := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(b))
	copy(c, b)
	return c
}

// reply sends a reply; a write can't fail for a program.
func (p *process) reply(unique uint64, errno unix.Errno, parts ...[]byte) {
	h := fp.OutHeader{Unique: unique, Error: -int32(errno)}
	b := bytes.Join(append([][]byte{fp.Bytes(&h)}, parts...), nil)
	(*fp.OutHeader)(unsafe.Pointer(unsafe.SliceData(b))).Len = uint32(len(b))
	p.raw(b)
}

func (p *process) raw(b []byte) { _, _ = unix.Write(p.fd, b) }

func (p *process) serve(h *fp.InHeader, body []byte) {
	p.m.tree.Lock()
	defer p.m.tree.Unlock()
	parts, errno, silent := p.handle(h, body)
	if silent {
		return
	}
	if errno != 0 {
		parts = nil
	}
	p.reply(h.Unique, errno, parts...)
}

// id is the process's number for a file.
func (p *process) id(f *mfile) uint64 {
	if id := p.ids[f]; id != 0 {
		return id
	}
	p.next += 64
	id := p.base + p.next
	p.ids[f], p.nodes[id] = id, f
	return id
}

func (p *process) attr(f *mfile) fp.Attr {
	ino := f.ino
	if ino > 1 {
		ino = p.id(f) // as programs do that have no numbers of their own
	}
	return fp.Attr{Ino: ino, Mode: f.mode, Size: uint64(len(f.data)), Nlink: f.nlink, Blksize: 4096, UID: 7, GID: 8}
}

// old cuts attributes for minors before 7.9.
func (p *process) old(b []byte) []byte {
	if p.m.minor < 9 {
		b = b[:len(b)-8]
	}
	return bytes.Clone(b)
}

func (p *process) entry(f *mfile) []byte {
	id := p.id(f)
	p.counts[id]++
	e := fp.EntryOut{NodeID: id, Generation: 3, EntryValid: 100, AttrValid: 1 << 40, Attr: p.attr(f)}
	return p.old(fp.Bytes(&e))
}

func (p *process) attrOut(f *mfile) []byte {
	a := fp.AttrOut{AttrValid: 100, Attr: p.attr(f)}
	return p.old(fp.Bytes(&a))
}

func (p *process) open(f *mfile) []byte {
	p.next += 64
	fh := p.base + p.next + 1<<20
	p.handles[fh], p.given[fh] = f, map[uint64]bool{0: true}
	o := fp.OpenOut{Fh: fh, OpenFlags: fp.FopenKeepCache | fp.FopenPassthrough, BackingID: 5}
	return bytes.Clone(fp.Bytes(&o))
}

func bodyAs[T fp.Body](p *process, h *fp.InHeader, b []byte, size int) (*T, []byte) {
	var v T
	if len(b) < size {
		p.violation("%s with a body of %d bytes, want %d", fp.Opcode(h.Opcode), len(b), size)
		return &v, nil
	}
	copy(fp.Bytes(&v), b[:size])
	return &v, b[size:]
}

func exact[T fp.Body](p *process, h *fp.InHeader, b []byte) (*T, []byte) {
	return bodyAs[T](p, h, b, fp.Size[T]())
}

func cstrings(b []byte) (list []string) {
	for s := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		list = append(list, string(s))
	}
	return list
}

func (p *process) file(h *fp.InHeader, fh uint64, n *mfile) *mfile {
	f := p.handles[fh]
	if f == nil || f != n {
		p.violation("%s with the file handle %#x of another node, or of none", fp.Opcode(h.Opcode), fh)
	}
	return f
}

func (p *process) handle(h *fp.InHeader, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	op := fp.Opcode(h.Opcode)
	if int(since[op]) > int(p.m.minor) {
		p.violation("%s, which 7.%d does not have", op, p.m.minor)
	}
	switch op {
	case fp.OpInit:
		return p.init(), 0, false
	case fp.OpDestroy:
		p.destroy = true
		return nil, 0, false
	case fp.OpBatchForget:
		in, rest := exact[fp.BatchForgetIn](p, h, b)
		for i := range int(in.Count) {
			var one fp.ForgetOne
			copy(fp.Bytes(&one), rest[i*16:])
			p.forget(one.NodeID, one.NLookup)
		}
		return nil, 0, true
	case fp.OpInterrupt, fp.OpNotifyReply:
		return nil, 0, true
	}
	n := p.nodes[h.NodeID]
	if n == nil {
		p.violation("%s with the node id %#x", op, h.NodeID)
		return nil, unix.EIO, op == fp.OpForget
	}
	return p.handleNode(op, h, n, b)
}

func (p *process) init() [][]byte {
	out := fp.InitOut{Major: 7, Minor: p.m.minor, MaxReadahead: MaxData, MaxWrite: p.m.maxWrite,
		Flags: uint32(p.m.flags), Flags2: uint32(p.m.flags >> 32), MaxPages: 32, TimeGran: 1}
	b := bytes.Clone(fp.Bytes(&out))
	if p.m.minor < 23 {
		b = b[:fp.Compat22InitOutSize]
	}
	return [][]byte{b}
}

func (p *process) forget(id, n uint64) {
	if id == 1 || p.counts[id] < n || n == 0 {
		p.violation("FORGET of %d lookups of node %#x, which has %d", n, id, p.counts[id])
		return
	}
	if p.counts[id] -= n; p.counts[id] == 0 {
		delete(p.ids, p.nodes[id])
		delete(p.nodes, id)
	}
}

func (p *process) handleNode(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	one := func(b []byte) ([][]byte, unix.Errno, bool) { return [][]byte{b}, 0, false }
	fail := func(e unix.Errno) ([][]byte, unix.Errno, bool) { return nil, e, false }
	switch op {
	case fp.OpForget:
		in, _ := exact[fp.ForgetIn](p, h, b)
		p.forget(h.NodeID, in.NLookup)
		return nil, 0, true
	case fp.OpLookup:
		f := n.children[cstrings(b)[0]]
		if f == nil {
			return fail(unix.ENOENT)
		}
		return one(p.entry(f))
	case fp.OpGetattr:
		if p.m.minor < 9 {
			if len(b) != 0 {
				p.violation("GETATTR with a body before 7.9")
			}
		} else if in, _ := exact[fp.GetattrIn](p, h, b); in.GetattrFlags&fp.GetattrFh != 0 {
			p.file(h, in.Fh, n)
		}
		return one(p.attrOut(n))
	case fp.OpSetattr:
		in, _ := exact[fp.SetattrIn](p, h, b)
		if in.Valid&fp.FattrSize != 0 && in.Size > 1<<24 {
			return fail(unix.EFBIG)
		}
		if in.Valid&fp.FattrSize != 0 {
			n.data = append(n.data, make([]byte, max(0, int(in.Size)-len(n.data)))...)[:in.Size]
		}
		if in.Valid&fp.FattrMode != 0 {
			n.mode = n.mode&unix.S_IFMT | in.Mode&0o7777
		}
		return one(p.attrOut(n))
	case fp.OpReadlink:
		return one(bytes.Clone(n.data))
	case fp.OpStatfs:
		return one(bytes.Clone(fp.Bytes(&fp.StatfsOut{St: fp.Kstatfs{Blocks: 77, NameLen: 255}})))
	case fp.OpOpen, fp.OpOpendir:
		exact[fp.OpenIn](p, h, b)
		return one(p.open(n))
	case fp.OpRelease, fp.OpReleasedir:
		in, _ := exact[fp.ReleaseIn](p, h, b)
		p.file(h, in.Fh, n)
		delete(p.handles, in.Fh)
		return nil, 0, false
	case fp.OpRead:
		in, _ := exact[fp.ReadIn](p, h, b)
		p.file(h, in.Fh, n)
		if in.Size > MaxData {
			p.violation("READ of %d bytes", in.Size)
		}
		from := min(in.Offset, uint64(len(n.data)))
		return one(bytes.Clone(n.data[from:min(from+uint64(in.Size), uint64(len(n.data)))]))
	case fp.OpReaddir, fp.OpReaddirplus:
		return p.readdir(op, h, n, b)
	case fp.OpWrite:
		return p.write(h, n, b)
	case fp.OpFlush:
		in, _ := exact[fp.FlushIn](p, h, b)
		p.file(h, in.Fh, n)
		return nil, 0, false
	case fp.OpFsync, fp.OpFsyncdir:
		in, _ := exact[fp.FsyncIn](p, h, b)
		p.file(h, in.Fh, n)
		return nil, 0, false
	case fp.OpAccess:
		return nil, 0, false
	case fp.OpLseek:
		in, _ := exact[fp.LseekIn](p, h, b)
		p.file(h, in.Fh, n)
		return one(bytes.Clone(fp.Bytes(&fp.LseekOut{Offset: in.Offset + 1})))
	case fp.OpSetlk, fp.OpSetlkw, fp.OpGetlk:
		in, _ := exact[fp.LkIn](p, h, b)
		p.file(h, in.Fh, n)
		if op == fp.OpGetlk {
			return one(bytes.Clone(fp.Bytes(&fp.LkOut{Lk: fp.FileLock{Type: unix.F_UNLCK, PID: 4711}})))
		}
		return nil, 0, false
	case fp.OpCopyFileRange:
		in, _ := exact[fp.CopyFileRangeIn](p, h, b)
		p.file(h, in.FhIn, n)
		p.file(h, in.FhOut, p.nodes[in.NodeIDOut])
		return one(bytes.Clone(fp.Bytes(&fp.WriteOut{Size: uint32(in.Len)})))
	case fp.OpIoctl:
		in, rest := exact[fp.IoctlIn](p, h, b)
		if in.Flags&fp.IoctlUnrestricted != 0 {
			p.violation("an unrestricted IOCTL")
		}
		out := bytes.Clone(fp.Bytes(&fp.IoctlOut{Result: 5}))
		return [][]byte{out, rest[:min(len(rest), int(in.OutSize))]}, 0, false
	}
	return p.handleNames(op, h, n, b)
}

func (p *process) handleNames(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	one := func(b []byte) ([][]byte, unix.Errno, bool) { return [][]byte{b}, 0, false }
	fail := func(e unix.Errno) ([][]byte, unix.Errno, bool) { return nil, e, false }
	switch op {
	case fp.OpMkdir:
		_, rest := exact[fp.MkdirIn](p, h, b)
		return p.make(n, cstrings(rest)[0], unix.S_IFDIR|0o755, "")
	case fp.OpMknod:
		size := fp.Size[fp.MknodIn]()
		if p.m.minor < 12 {
			size = compatMknodSize
		}
		in, rest := bodyAs[fp.MknodIn](p, h, b, size)
		return p.make(n, cstrings(rest)[0], in.Mode, "")
	case fp.OpSymlink:
		names := cstrings(b)
		return p.make(n, names[0], unix.S_IFLNK|0o777, names[1])
	case fp.OpCreate:
		size := fp.Size[fp.CreateIn]()
		if p.m.minor < 12 {
			size = compatOpenSize
		}
		_, rest := bodyAs[fp.CreateIn](p, h, b, size)
		name := cstrings(rest)[0]
		if n.children[name] != nil {
			return fail(unix.EEXIST)
		}
		f := p.m.add(n, name, unix.S_IFREG|0o644, "")
		return [][]byte{p.entry(f), p.open(f)}, 0, false
	case fp.OpLink:
		in, rest := exact[fp.LinkIn](p, h, b)
		f := p.nodes[in.OldNodeID]
		if f == nil {
			p.violation("LINK of node %#x", in.OldNodeID)
			return fail(unix.EIO)
		}
		f.nlink++
		n.link(cstrings(rest)[0], f)
		return one(p.entry(f))
	case fp.OpUnlink, fp.OpRmdir:
		name := cstrings(b)[0]
		f := n.children[name]
		if f == nil {
			return fail(unix.ENOENT)
		}
		f.nlink--
		n.unlink(name)
		return nil, 0, false
	case fp.OpRename, fp.OpRename2:
		var in fp.Rename2In
		size := fp.Size[fp.RenameIn]()
		if op == fp.OpRename2 {
			size = fp.Size[fp.Rename2In]()
		}
		copy(fp.Bytes(&in), b[:size])
		names, to := cstrings(b[size:]), p.nodes[in.NewDir]
		if to == nil {
			p.violation("RENAME to node %#x", in.NewDir)
			return fail(unix.EIO)
		}
		f := n.children[names[0]]
		if f == nil {
			return fail(unix.ENOENT)
		}
		n.unlink(names[0])
		to.link(names[1], f)
		return nil, 0, false
	}
	return p.handleXattr(op, h, n, b)
}

func (p *process) handleXattr(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	var value string
	switch op {
	case fp.OpSetxattr:
		in, rest := bodyAs[fp.SetxattrIn](p, h, b, fp.CompatSetxattrInSize)
		name, value, _ := bytes.Cut(rest, []byte{0})
		if len(value) != int(in.Size) {
			p.violation("SETXATTR of %d bytes with %d", in.Size, len(value))
		}
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[string(name)] = string(value)
		return nil, 0, false
	case fp.OpRemovexattr:
		delete(n.xattrs, cstrings(b)[0])
		return nil, 0, false
	case fp.OpGetxattr:
		_, rest := exact[fp.GetxattrIn](p, h, b)
		v, ok := n.xattrs[cstrings(rest)[0]]
		if !ok {
			return nil, unix.ENODATA, false
		}
		value = v
	case fp.OpListxattr:
		for name := range n.xattrs {
			value += name + "\x00"
		}
	default:
		return nil, unix.ENOSYS, false
	}
	in, _ := exact[fp.GetxattrIn](p, h, b)
	switch {
	case in.Size == 0:
		return [][]byte{bytes.Clone(fp.Bytes(&fp.GetxattrOut{Size: uint32(len(value))}))}, 0, false
	case int(in.Size) < len(value):
		return nil, unix.ERANGE, false
	}
	return [][]byte{[]byte(value)}, 0, false
}

func (p *process) make(dir *mfile, name string, mode uint32, data string) ([][]byte, unix.Errno, bool) {
	if dir.children[name] != nil {
		return nil, unix.EEXIST, false
	}
	return [][]byte{p.entry(p.m.add(dir, name, mode, data))}, 0, false
}

func (p *process) write(h *fp.InHeader, n *mfile, b []byte) ([][]byte, unix.Errno, bool) {
	size := fp.Size[fp.WriteIn]()
	if p.m.minor < 9 {
		size = compatWriteSize
	}
	in, data := bodyAs[fp.WriteIn](p, h, b, size)
	p.file(h, in.Fh, n)
	if len(data) != int(in.Size) {
		p.violation("WRITE of %d bytes with %d", in.Size, len(data))
	}
	if in.Offset > 1<<24 {
		return nil, unix.EFBIG, false
	}
	end := int(in.Offset) + len(data)
	n.data = append(n.data, make([]byte, max(0, end-len(n.data)))...)
	copy(n.data[in.Offset:], data)
	return [][]byte{bytes.Clone(fp.Bytes(&fp.WriteOut{Size: in.Size}))}, 0, false
}

// positionOf are positions that look like addresses.
func positionOf(i int) uint64 { return 0x7fff_0000_0000_0000 - uint64(i)*4096 }

func (p *process) readdir(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) ([][]byte, unix.Errno, bool) {
	in, _ := exact[fp.ReadIn](p, h, b)
	p.file(h, in.Fh, n)
	given := p.given[in.Fh]
	if given == nil || !given[in.Offset] {
		p.violation("%s from %#x, which was not given", op, in.Offset)
		return nil, unix.EIO, false
	}
	at := 0
	for in.Offset != 0 && positionOf(at) != in.Offset {
		at++
	}
	names := append([]string{".", ".."}, n.names...)
	var out []byte
	for ; at < len(names); at++ {
		name := names[at]
		f := n.children[name]
		var rec []byte
		d := fp.Dirent{Ino: 1, Off: positionOf(at + 1), NameLen: uint32(len(name)), Type: unix.S_IFDIR >> 12}
		if f != nil {
			d.Ino, d.Type = p.attr(f).Ino, f.mode&unix.S_IFMT>>12
		}
		size := fp.DirentAlign(24 + len(name))
		if op == fp.OpReaddirplus {
			size = fp.DirentAlign(152 + len(name))
		}
		if len(out)+size > int(in.Size) {
			break
		}
		if op == fp.OpReaddirplus {
			if f != nil {
				rec = p.entry(f)
			} else {
				rec = make([]byte, fp.Size[fp.EntryOut]())
			}
		}
		rec = append(append(rec, fp.Bytes(&d)...), name...)
		out = append(append(out, rec...), make([]byte, size-len(rec))...)
		given[d.Off] = true
	}
	return [][]byte{out}, 0, false
}
