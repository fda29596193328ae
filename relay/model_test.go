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
	asker    uint32 // the process that Mount names

	// hook sees each request first. If it returns true it has answered. It is called with hookMu held, and is set with it
	// held, too, once there is a process.
	hookMu sync.Mutex
	hook   func(p *process, h *fp.InHeader, body []byte) bool

	tree sync.Mutex // guards the files, and the numbers of the processes
	root *mfile

	mu       sync.Mutex // guards the following
	starts   int
	current  *process
	why      error // of the end of programs
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
	return &Mounted{Socket: os.NewFile(uintptr(pair[0]), "pair"), Type: "fuse.model", Options: m.options, Process: m.asker, Done: p.done, Err: func() error { return m.why }}, nil
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
		if n < inHeaderSize || int(h.Len) != n || h.PID != 0 && h.PID != p.m.asker || h.TotalExtLen != 0 {
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
