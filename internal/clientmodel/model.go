// Package clientmodel is clients that change a share in every way that FUSE has, one request after
// the other, and know what each reply has to say and what must be in the tree in the end: tests of
// what is lost or done twice when something fails in between.
package clientmodel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Options are what a share has beside what each has.
type Options struct {
	Xattr     bool // extended attributes of users
	Ownership bool // owners and modes are kept in attributes, not in the host's files
	Nodes     bool // device numbers can be made
	Locks     bool // locks are on the host
}

// node is a file of the model. It is what the user has made, whether the client has it looked up or
// not.
type node struct {
	id      uint64 // 0: the client does not know it
	lookups uint64
	links   []link // its names; a directory has one
	mode    uint32 // with the type
	uid     uint32
	gid     uint32
	rdev    uint32
	mtime   int64 // s; 0: any
	data    []byte
	target  string
	xattrs  map[string]string
	kids    map[string]*node
	opens   int // files and listings
}

// link is a name of a file.
type link struct {
	dir  *node
	name string
}

func (n *node) is(kind uint32) bool { return n.mode&unix.S_IFMT == kind }
func (n *node) isDir() bool         { return n.is(unix.S_IFDIR) }

// file is an open file.
type file struct {
	n     *node
	fh    uint64
	flags uint32
}

func (f *file) reads() bool   { return f.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (f *file) writes() bool  { return f.flags&unix.O_ACCMODE != unix.O_RDONLY }
func (f *file) appends() bool { return f.flags&unix.O_APPEND != 0 }

// User is a program of the guest with a directory of its own. Beside it, users make and remove names
// in a directory that they share.
type User struct {
	c      *frontend.Client
	r      *rand.Rand
	opts   Options
	served *atomic.Int64

	name   string
	root   *node
	shared *node
	others *Shared
	locker *locker // nil without locks
	nodes  []*node // all but root and shared that the tree or the client has
	files  []*file
	lists  []*listing
	serial int
	steps  int
	last   []string // requests
	err    error
}

// NewUser makes a user with the directory name in the root of the share. served is counted up with
// each reply.
func NewUser(c *frontend.Client, name string, seed uint64, opts Options, shared *Shared, served *atomic.Int64) (*User, error) {
	u := &User{c: c, r: rand.New(rand.NewPCG(seed, 7)), opts: opts, served: served, name: name, others: shared}
	e, err := c.Mkdir(fp.RootID, name, 0o777)
	if err != nil {
		return nil, err
	}
	u.root = &node{id: e.NodeID, lookups: 1, mode: unix.S_IFDIR | 0o777, kids: map[string]*node{}, xattrs: map[string]string{}}
	u.shared = &node{id: shared.id, lookups: 1, mode: unix.S_IFDIR | 0o777, kids: map[string]*node{}}
	if opts.Locks {
		if err := u.newLocker(shared, int(seed%1000)); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// Run makes steps until stop says so or a reply is wrong, which is the error.
func (u *User) Run(stop func() bool) error {
	for u.err == nil && !stop() {
		u.step()
	}
	if u.locker != nil {
		u.unlock() // others wait for it
	}
	return u.err
}

// step does one thing.
func (u *User) step() {
	u.steps++
	all := []func(){
		u.lookup, u.create, u.create, u.mknod, u.mkdir, u.symlink, u.link, u.unlink, u.unlink, u.rmdir,
		u.rename, u.rename, u.exchange, u.setattr, u.setattr, u.truncate, u.getattr, u.statfs,
		u.open, u.release, u.write, u.write, u.append, u.append, u.read, u.fallocate, u.copyRange, u.flush, u.tmpfile,
		u.opendir, u.readdir, u.readdir, u.readdir, u.forget, u.forget, u.forgetMany, u.contend, u.contend,
	}
	if u.opts.Xattr {
		all = append(all, u.setxattr, u.setxattr, u.removexattr, u.getxattr)
	}
	if u.opts.Locks {
		all = append(all, u.lock, u.lock, u.lock, u.lockRange, u.lockRange, u.lockRange)
	}
	if len(u.nodes) > 50 {
		all = []func(){u.unlink, u.rmdir, u.forget, u.release}
	}
	all[u.r.IntN(len(all))]()
}

// keptRequests is how many of the last requests are kept for the message about a wrong reply, and toldRequests how
// many of them are told.
const (
	keptRequests = 4000
	toldRequests = 40
)

// fail notes what is wrong, once, with what was asked before.
func (u *User) fail(format string, args ...any) {
	if u.err != nil {
		return
	}
	var told []string
	last := u.last[len(u.last)-1]
	op, rest, _ := strings.Cut(last, " ")
	id, _, _ := strings.Cut(rest, " ")
	for i, s := range u.last {
		if i >= len(u.last)-toldRequests || strings.Contains(s, " "+id+" ") && !strings.HasPrefix(s, op) {
			told = append(told, s)
		}
	}
	u.err = fmt.Errorf("%s, step %d: %s; the last requests, and those about node %s:\n  %s", u.name, u.steps, fmt.Sprintf(format, args...), id,
		strings.Join(told[max(0, len(told)-150):], "\n  "))
}

// note notes that a request is sent.
func (u *User) note(r *frontend.Request, about string) {
	if len(u.last) >= 2*keptRequests {
		u.last = append(u.last[:0], u.last[keptRequests:]...)
	}
	s := fmt.Sprintf("%s %d %s", r.Op, r.NodeID, about)
	if n := len(u.last); n > 0 && strings.HasPrefix(u.last[n-1], s+":") {
		u.last = u.last[:n-1] // the same once more
	}
	u.last = append(u.last, s)
}

// do sends a request. The parts of its body are byte strings and names.
func (u *User) do(r *frontend.Request, about string, parts ...any) ([]byte, error) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			r.Body = append(r.Body, p...)
		case string:
			r.Body = append(append(r.Body, p...), 0)
		}
	}
	u.note(r, about)
	b, err := u.c.Do(r)
	u.served.Add(1)
	u.last[len(u.last)-1] += fmt.Sprintf(": %v", err)
	return b, err
}

// want checks the errno of the last request: 0 is success, which it reports.
func (u *User) want(err error, want unix.Errno) bool {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) || errno != want {
		u.fail("%v, want %d (%v)", err, want, want)
	}
	return u.err == nil && want == 0
}

func wire[T fp.Body](v T) []byte { return slices.Clone(fp.Bytes(&v)) }

// take decodes a reply of one struct. A wrong length fails the user.
func take[T fp.Body](u *User, b []byte) (v T) {
	p, _, ok := fp.View[T](slices.Clone(b))
	if !ok || len(b) != fp.Size[T]() {
		u.fail("a reply of %d bytes, want %d", len(b), fp.Size[T]())
		return v
	}
	return *p
}

// fresh is a name that was never used.
func (u *User) fresh() string {
	u.serial++
	long := ""
	if u.r.IntN(6) == 0 {
		long = strings.Repeat("x", u.r.IntN(150))
	}
	return fmt.Sprintf("n%d%s", u.serial, long)
}

// pick is any node that f accepts, and that the client knows; nil if there is none.
func (u *User) pick(f func(n *node) bool) *node {
	if len(u.nodes) == 0 {
		return nil
	}
	start := u.r.IntN(len(u.nodes))
	for i := range u.nodes {
		if n := u.nodes[(start+i)%len(u.nodes)]; f(n) && u.know(n) {
			return n
		}
	}
	return nil
}

// dir is any directory of the user's.
func (u *User) dir() *node {
	if u.r.IntN(3) == 0 {
		if d := u.pick((*node).isDir); d != nil && len(d.links) > 0 {
			return d
		}
	}
	return u.root
}

// named is any node with a name; kind is its type, or 0 for all but directories.
func (u *User) named(kind uint32) (*node, link) {
	n := u.pick(func(n *node) bool {
		return len(n.links) > 0 && (kind == 0 && !n.isDir() || n.mode&unix.S_IFMT == kind)
	})
	if n == nil {
		return nil, link{}
	}
	l := n.links[u.r.IntN(len(n.links))]
	if !u.know(l.dir) {
		return nil, link{}
	}
	return n, l
}

// know has the client look up a node that it has forgotten.
func (u *User) know(n *node) bool {
	if n.id != 0 {
		return true
	}
	if len(n.links) == 0 {
		return false
	}
	l := n.links[0]
	return u.know(l.dir) && u.find(l, n)
}

// find looks up a name, which must be that of n.
func (u *User) find(l link, n *node) bool {
	b, err := u.do(&frontend.Request{Op: fp.OpLookup, NodeID: l.dir.id, Reply: fp.Size[fp.EntryOut]()}, l.name, l.name)
	if !u.want(err, 0) {
		return false
	}
	return u.granted(n, take[fp.EntryOut](u, b))
}

// granted counts a lookup of n that a reply has given.
func (u *User) granted(n *node, e fp.EntryOut) bool {
	switch {
	case e.NodeID == 0 || n.id != 0 && e.NodeID != n.id:
		u.fail("node %d, want %d", e.NodeID, n.id)
	default:
		n.id = e.NodeID
		n.lookups++
		u.last[len(u.last)-1] += fmt.Sprintf(", node %d of mode %o", n.id, n.mode)
		u.attr(n, e.Attr)
	}
	return u.err == nil
}

// attr checks attributes.
func (u *User) attr(n *node, a fp.Attr) {
	var size uint64
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		size = uint64(len(n.data))
	case unix.S_IFLNK:
		size = uint64(len(n.target))
	default:
		size = a.Size
	}
	links := uint32(len(n.links))
	if n.isDir() {
		links = a.Nlink
	}
	if a.Mode != n.mode || a.UID != n.uid || a.GID != n.gid || a.Size != size || a.Nlink != links || a.Rdev != n.rdev {
		u.fail("mode %o, owner %d:%d, size %d, links %d, device %x; want %o, %d:%d, %d, %d, %x",
			a.Mode, a.UID, a.GID, a.Size, a.Nlink, a.Rdev, n.mode, n.uid, n.gid, size, links, n.rdev)
	}
	if n.mtime != 0 && int64(a.Mtime) != n.mtime {
		u.fail("changed at %d, want %d", a.Mtime, n.mtime)
	}
}

// put gives n a name.
func (u *User) put(n *node, l link) {
	l.dir.kids[l.name] = n
	n.links = append(n.links, l)
	u.touch(l)
	if !slices.Contains(u.nodes, n) {
		u.nodes = append(u.nodes, n)
	}
}

// cut takes a name away.
func (u *User) cut(l link) {
	n := l.dir.kids[l.name]
	delete(l.dir.kids, l.name)
	n.links = slices.DeleteFunc(n.links, func(o link) bool { return o == l })
	u.touch(l)
	u.tidy(n)
}

// tidy removes a node that neither the tree nor the client has.
func (u *User) tidy(n *node) {
	if n.id == 0 && len(n.links) == 0 {
		u.nodes = slices.DeleteFunc(u.nodes, func(o *node) bool { return o == n })
	}
}

// touch notes that a name has changed.
func (u *User) touch(l link) {
	l.dir.mtime = 0
	for _, s := range u.lists {
		if s.n == l.dir {
			s.touched[l.name] = true
		}
	}
}

// owner is who makes a file.
func (u *User) owner() (uid, gid uint32) {
	ids := []uint32{0, 0, 1000, 2000}
	return ids[u.r.IntN(4)], ids[u.r.IntN(4)]
}

func (u *User) text() []byte {
	n := u.r.IntN(300)
	if u.r.IntN(10) == 0 {
		n = u.r.IntN(100 << 10)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + u.r.IntN(26))
	}
	return b
}
