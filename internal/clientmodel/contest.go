package clientmodel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Contest is clients that change the same few names, attributes and files at the same time, with requests that look
// alike: same user, mode, value, data. Each reply, and what there is in the end, must be possible in some order of the requests in
// which those that were answered come before those that were sent later.
type Contest struct {
	c      *frontend.Client
	served *atomic.Int64

	mu    sync.Mutex // guards the following
	names history[tree]
	attr  history[string]
	data  history[string]
	kinds map[uint64]uint32 // of nodes, by S_IFMT; they are never forgotten
	known []uint64          // the latest nodes
	err   error

	dirs [2]uint64
	attrFile,
	dataFile uint64
}

const (
	contestNames = 3 // in each directory
	contestAttr  = "user.contest"
)

// tree is which node has which name; 0 is none.
type tree [2 * contestNames]uint64

func slotName(at int) string { return fmt.Sprint("n", at%contestNames) }

func (c *Contest) dirOf(at int) uint64 { return c.dirs[at/contestNames] }

// NewContest makes the directories and files.
func NewContest(c *frontend.Client, served *atomic.Int64) (*Contest, error) {
	x := &Contest{c: c, served: served, kinds: map[uint64]uint32{}}
	for i := range x.dirs {
		e, err := c.Mkdir(fp.RootID, fmt.Sprint("contest", i), 0o777)
		if err != nil {
			return nil, err
		}
		x.dirs[i] = e.NodeID
	}
	for name, id := range map[string]*uint64{"attr": &x.attrFile, "data": &x.dataFile} {
		out, err := c.Create(fp.RootID, name, unix.O_RDWR|unix.O_CREAT, 0o666)
		if err != nil {
			return nil, err
		}
		if err := c.Release(out.Entry.NodeID, out.Open.Fh); err != nil {
			return nil, err
		}
		*id = out.Entry.NodeID
	}
	return x, nil
}

// contestant is one client of a Contest.
type contestant struct {
	*Contest
	r  *rand.Rand
	fh uint64 // of the file of data, to append
}

// Run sends requests until stop says so, on any queue.
func (c *Contest) Run(seed uint64, stop func() bool) error {
	fh, err := c.c.Open(c.dataFile, unix.O_RDWR|unix.O_APPEND)
	if err != nil {
		return err
	}
	u := &contestant{c, rand.New(rand.NewPCG(seed, 17)), fh}
	for !stop() && u.failed() == nil {
		switch u.r.IntN(6) {
		case 0:
			u.changeAttr()
		case 1:
			u.changeData()
		default:
			u.changeNames()
		}
	}
	if err := u.failed(); err != nil {
		return err
	}
	return c.c.Release(c.dataFile, fh)
}

func (c *Contest) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// compete sends a request, and notes it in a history. step is called with the reply when all have ended.
func compete[S comparable](u *contestant, h *history[S], r *frontend.Request, about string, step func(s S, reply []byte, errno unix.Errno) []S) ([]byte, unix.Errno) {
	o := &operation[S]{}
	u.mu.Lock()
	h.call(o)
	u.mu.Unlock()
	queues := u.c.Queues[1:]
	b, err := u.c.DoOn(queues[u.r.IntN(len(queues))], r)
	u.served.Add(1)
	var errno unix.Errno
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil && !errors.As(err, &errno) {
		u.err = errors.Join(u.err, err)
	}
	o.about = fmt.Sprintf("%s %s: %v", r.Op, about, errno)
	if r.Reply >= fp.Size[fp.EntryOut]() && errno == 0 {
		o.about += fmt.Sprint(", node ", idOf(b))
	}
	o.step = func(s S) []S { return step(s, b, errno) }
	h.end(o)
	return b, errno
}

// is gives the state after an operation that had to fail with an errno, or to succeed and then leads to next.
func is[S comparable](s S, want, errno unix.Errno, next S) []S {
	switch {
	case want != errno:
		return nil
	case errno != 0:
		return []S{s}
	}
	return []S{next}
}

func joined(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(append(b, p...), 0)
		}
	}
	return b
}

func (u *contestant) changeNames() {
	at := u.r.IntN(len(tree{}))
	switch u.r.IntN(10) {
	case 0, 1:
		u.remove(at)
	case 2, 3, 4:
		u.rename(at, u.r.IntN(len(tree{})))
	case 5:
		u.link(at)
	case 6:
		u.find(at)
	default:
		u.make(at)
	}
}

// make makes a name, in one of five ways.
func (u *contestant) make(at int) {
	name, kind, excl := slotName(at), uint32(unix.S_IFREG), true
	r := &frontend.Request{NodeID: u.dirOf(at), Reply: fp.Size[fp.EntryOut]()}
	switch u.r.IntN(5) {
	case 0:
		kind = unix.S_IFDIR
		r.Op, r.Body = fp.OpMkdir, joined(wire(fp.MkdirIn{Mode: 0o755}), name)
	case 1:
		r.Op, r.Body = fp.OpMknod, joined(wire(fp.MknodIn{Mode: unix.S_IFREG | 0o644}), name)
	case 2:
		kind = unix.S_IFLNK
		r.Op, r.Body = fp.OpSymlink, joined(name, "target")
	default:
		flags := uint32(unix.O_RDWR | unix.O_CREAT)
		if excl = u.r.IntN(2) == 0; excl {
			flags |= unix.O_EXCL
		}
		r.Op, r.Reply = fp.OpCreate, fp.Size[fp.CreateOut]()
		r.Body = joined(wire(fp.CreateIn{Flags: flags, Mode: 0o644}), name)
	}
	b, errno := compete(u, &u.names, r, fmt.Sprint(at, " excl ", excl), func(s tree, b []byte, errno unix.Errno) []tree {
		had := s[at]
		switch {
		case had == 0 && errno == 0:
			s[at] = idOf(b)
			return []tree{s}
		case had == 0:
			return nil
		case excl:
			return is(s, unix.EEXIST, errno, s)
		case u.kinds[had] != unix.S_IFREG:
			return is(s, errno, max(errno, 1), s) // any error
		case errno == 0 && idOf(b) == had:
			return []tree{s}
		}
		return nil
	})
	if errno != 0 {
		return
	}
	u.has(idOf(b), kind)
	if r.Op == fp.OpCreate {
		out, _, _ := fp.View[fp.CreateOut](slices.Clone(b))
		if err := u.c.Release(out.Entry.NodeID, out.Open.Fh); err != nil {
			u.mu.Lock()
			u.err = errors.Join(u.err, fmt.Errorf("RELEASE: %w", err))
			u.mu.Unlock()
		}
	}
}

// idOf is the node of a reply with an entry.
func idOf(b []byte) uint64 {
	e, _, _ := fp.View[fp.EntryOut](slices.Clone(b))
	return e.NodeID
}

// has notes that a node is known.
func (u *contestant) has(id uint64, kind uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.kinds[id]; !ok {
		u.kinds[id] = kind
	}
	if u.known = append(u.known, id); len(u.known) > 8 {
		u.known = u.known[1:]
	}
}

func (u *contestant) remove(at int) {
	r := &frontend.Request{Op: fp.OpUnlink, NodeID: u.dirOf(at), Body: joined(slotName(at))}
	if u.r.IntN(3) == 0 {
		r.Op = fp.OpRmdir
	}
	compete(u, &u.names, r, fmt.Sprint(at), func(s tree, _ []byte, errno unix.Errno) []tree {
		want, next := unix.Errno(0), s
		next[at] = 0
		switch dir := u.kinds[s[at]] == unix.S_IFDIR; {
		case s[at] == 0:
			want = unix.ENOENT
		case dir && r.Op == fp.OpUnlink:
			want = unix.EISDIR
		case !dir && r.Op == fp.OpRmdir:
			want = unix.ENOTDIR
		}
		return is(s, want, errno, next)
	})
}

func (u *contestant) rename(from, to int) {
	flags := []uint32{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[u.r.IntN(4)]
	r := &frontend.Request{Op: fp.OpRename2, NodeID: u.dirOf(from),
		Body: joined(wire(fp.Rename2In{NewDir: u.dirOf(to), Flags: flags}), slotName(from), slotName(to))}
	compete(u, &u.names, r, fmt.Sprint(from, " to ", to, " flags ", flags), func(s tree, _ []byte, errno unix.Errno) []tree {
		old, new := s[from], s[to]
		oldDir, newDir := u.kinds[old] == unix.S_IFDIR, u.kinds[new] == unix.S_IFDIR
		next := s
		want := unix.Errno(0)
		switch {
		case old == 0, flags == unix.RENAME_EXCHANGE && new == 0:
			want = unix.ENOENT
		case flags == unix.RENAME_NOREPLACE && new != 0:
			want = unix.EEXIST
		case old == new:
		case flags == unix.RENAME_EXCHANGE:
			next[from], next[to] = new, old
		case new != 0 && oldDir && !newDir:
			want = unix.ENOTDIR
		case new != 0 && !oldDir && newDir:
			want = unix.EISDIR
		default:
			next[from], next[to] = 0, old
		}
		return is(s, want, errno, next)
	})
}

// link makes another name of a file. One that has lost its last name meanwhile can't get one.
func (u *contestant) link(at int) {
	u.mu.Lock()
	if len(u.known) == 0 {
		u.mu.Unlock()
		return
	}
	id := u.known[u.r.IntN(len(u.known))]
	dir := u.kinds[id] == unix.S_IFDIR
	u.mu.Unlock()
	if dir {
		return
	}
	r := &frontend.Request{Op: fp.OpLink, NodeID: u.dirOf(at), Reply: fp.Size[fp.EntryOut](), Body: joined(wire(fp.LinkIn{OldNodeID: id}), slotName(at))}
	compete(u, &u.names, r, fmt.Sprintf("%d of node %d", at, id), func(s tree, b []byte, errno unix.Errno) []tree {
		switch named := slices.Contains(s[:], id); {
		case s[at] != 0:
			if !named && (errno == unix.ENOENT || errno == unix.ESTALE) {
				return []tree{s}
			}
			return is(s, unix.EEXIST, errno, s)
		case !named && (errno == unix.ENOENT || errno == unix.ESTALE):
			return []tree{s}
		case named && errno == 0 && idOf(b) == id:
			s[at] = id
			return []tree{s}
		}
		return nil
	})
}

func (u *contestant) find(at int) {
	r := &frontend.Request{Op: fp.OpLookup, NodeID: u.dirOf(at), Reply: fp.Size[fp.EntryOut](), Body: joined(slotName(at))}
	compete(u, &u.names, r, fmt.Sprint(at), func(s tree, b []byte, errno unix.Errno) []tree {
		if s[at] == 0 {
			return is(s, unix.ENOENT, errno, s)
		}
		if errno != 0 || idOf(b) != s[at] {
			return nil
		}
		return []tree{s}
	})
}

// changeAttr makes, replaces, removes or reads an attribute. Its state is the value; "" is none.
func (u *contestant) changeAttr() {
	value := []string{"v", "v", "w"}[u.r.IntN(3)]
	r := &frontend.Request{Op: fp.OpSetxattr, NodeID: u.attrFile}
	flags := uint32(0)
	switch u.r.IntN(6) {
	case 0, 1:
		r.Op, r.Body = fp.OpRemovexattr, joined(contestAttr)
	case 2:
		r.Op, r.Reply = fp.OpGetxattr, 64
		r.Body = joined(wire(fp.GetxattrIn{Size: 64}), contestAttr)
	default:
		flags = []uint32{0, unix.XATTR_CREATE, unix.XATTR_CREATE, unix.XATTR_REPLACE}[u.r.IntN(4)]
		in := wire(fp.SetxattrIn{Size: uint32(len(value)), Flags: flags})
		if fp.InitFlags(uint64(u.c.Init.Flags)|uint64(u.c.Init.Flags2)<<32)&fp.InitSetxattrExt == 0 {
			in = in[:fp.CompatSetxattrInSize]
		}
		r.Body = joined(in, contestAttr, []byte(value))
	}
	compete(u, &u.attr, r, fmt.Sprint(value, " flags ", flags), func(s string, b []byte, errno unix.Errno) []string {
		switch {
		case r.Op == fp.OpSetxattr && flags == unix.XATTR_CREATE && s != "":
			return is(s, unix.EEXIST, errno, s)
		case (r.Op != fp.OpSetxattr || flags == unix.XATTR_REPLACE) && s == "":
			return is(s, unix.ENODATA, errno, s)
		case r.Op == fp.OpRemovexattr:
			return is(s, 0, errno, "")
		case r.Op == fp.OpSetxattr:
			return is(s, 0, errno, value)
		case errno == 0 && string(b) == s:
			return []string{s}
		}
		return nil
	})
}

// changeData appends to a file, empties it or reads it. Its state is what is in it.
func (u *contestant) changeData() {
	text := []string{"a", "a", "ab", "b"}[u.r.IntN(4)]
	const room = 4096
	r := &frontend.Request{NodeID: u.dataFile}
	switch u.r.IntN(8) {
	case 0:
		r.Op, r.Reply = fp.OpSetattr, fp.Size[fp.AttrOut]()
		r.Body = wire(fp.SetattrIn{Valid: fp.FattrSize})
	case 1:
		r.Op, r.Read = fp.OpRead, room
		r.Body = wire(fp.ReadIn{Fh: u.fh, Size: room})
	default:
		r.Op, r.Reply = fp.OpWrite, fp.Size[fp.WriteOut]()
		r.Body = wire(fp.WriteIn{Fh: u.fh, Size: uint32(len(text)), Flags: unix.O_RDWR | unix.O_APPEND})
		r.Data = []byte(text)
	}
	compete(u, &u.data, r, text, func(s string, b []byte, errno unix.Errno) []string {
		switch {
		case errno != 0:
			return nil
		case r.Op == fp.OpSetattr:
			return []string{""}
		case r.Op == fp.OpWrite:
			if out, _, _ := fp.View[fp.WriteOut](slices.Clone(b)); int(out.Size) != len(text) {
				return nil
			}
			return []string{s + text}
		case string(b) == s || len(s) > room && string(b) == s[:room]:
			return []string{s}
		}
		return nil
	})
}

// Check checks all replies and what is in the share, which is the directory path of the host. All Runs have ended.
func (c *Contest) Check(path string) error {
	u := &contestant{Contest: c, r: rand.New(rand.NewPCG(1, 1))}
	for at := range len(tree{}) { // looked at by a last client
		u.find(at)
	}
	return errors.Join(c.err, u.checkNames(path), endsAs("the attribute", &c.attr, func() string {
		b := make([]byte, 64)
		n, _ := unix.Lgetxattr(filepath.Join(path, "attr"), contestAttr, b)
		return string(b[:max(n, 0)])
	}), endsAs("the data", &c.data, func() string {
		b, _ := os.ReadFile(filepath.Join(path, "data"))
		return string(b)
	}))
}

func (c *Contest) checkNames(path string) error {
	trees, err := c.names.check(tree{})
	if err != nil {
		return fmt.Errorf("names: %w", err)
	}
	for s := range trees {
		for at, id := range s {
			_, err := os.Lstat(filepath.Join(path, fmt.Sprint("contest", at/contestNames), slotName(at)))
			if (err == nil) != (id != 0) {
				return fmt.Errorf("name %d: %v on the host, and node %d in the model", at, err, id)
			}
		}
	}
	return nil
}

// endsAs checks a history, and that it ends in the state that there is.
func endsAs(about string, h *history[string], is func() string) error {
	ends, err := h.check("")
	if err != nil {
		return fmt.Errorf("%s: %w", about, err)
	}
	if has := is(); !ends[has] {
		return fmt.Errorf("%s is %q, which is not possible; %v is", about, has, ends)
	}
	return nil
}
