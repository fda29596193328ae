package clientmodel

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// lookup looks up a name that is there, or one that is not.
func (u *User) lookup() {
	if u.r.IntN(3) == 0 {
		_, err := u.do(&frontend.Request{Op: fp.OpLookup, NodeID: u.root.id, Reply: fp.Size[fp.EntryOut]()}, "", "nobody")
		u.want(err, unix.ENOENT)
		return
	}
	n := u.pick(func(n *node) bool { return len(n.links) > 0 })
	if n == nil {
		return
	}
	l := n.links[u.r.IntN(len(n.links))]
	if u.know(l.dir) {
		u.find(l, n)
	}
}

// makeEntry sends a request that makes a name for n. If the name is taken it is refused, which is
// tried now and then.
func (u *User) makeEntry(op fp.Opcode, n *node, l link, at uint64, parts ...any) bool {
	r := &frontend.Request{Op: op, NodeID: at, Reply: fp.Size[fp.EntryOut](), UID: n.uid, GID: n.gid}
	if op == fp.OpLink {
		r.UID, r.GID = 0, 0
	}
	b, err := u.do(r, fmt.Sprintf("%s of %d", l.name, n.id), parts...)
	if l.dir.kids[l.name] != nil {
		return u.want(err, unix.EEXIST)
	}
	if !u.want(err, 0) {
		return false
	}
	u.put(n, l)
	return u.granted(n, take[fp.EntryOut](u, b))
}

// place is where something new is to be made; now and then the name is taken.
func (u *User) place() link {
	if u.r.IntN(8) == 0 {
		if n := u.pick(func(n *node) bool { return len(n.links) > 0 }); n != nil && u.know(n.links[0].dir) {
			return n.links[0]
		}
	}
	return link{u.dir(), u.fresh()}
}

func (u *User) made(mode uint32) *node {
	n := &node{mode: mode, xattrs: map[string]string{}}
	n.uid, n.gid = u.owner()
	if mode&unix.S_IFMT == unix.S_IFDIR {
		n.kids = map[string]*node{}
	}
	return n
}

func (u *User) mkdir() {
	l := u.place()
	u.makeEntry(fp.OpMkdir, u.made(unix.S_IFDIR|0o777), l, l.dir.id, wire(fp.MkdirIn{Mode: 0o777}), l.name)
}

var modes = []uint32{0o644, 0o600, 0o444, 0o755, 0o640, 0}

func (u *User) fileMode() uint32 { return modes[u.r.IntN(len(modes))] }

func (u *User) mknod() {
	kinds := []uint32{unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK}
	if u.opts.Nodes {
		kinds = append(kinds, unix.S_IFCHR, unix.S_IFBLK)
	}
	n := u.made(kinds[u.r.IntN(len(kinds))] | u.fileMode())
	if n.is(unix.S_IFCHR) || n.is(unix.S_IFBLK) {
		n.rdev, n.uid, n.gid = uint32(unix.Mkdev(7, uint32(u.r.IntN(200)))), 0, 0
	}
	l := u.place()
	u.makeEntry(fp.OpMknod, n, l, l.dir.id, wire(fp.MknodIn{Mode: n.mode, Rdev: n.rdev}), l.name)
}

func (u *User) symlink() {
	n := u.made(unix.S_IFLNK | 0o777)
	n.target = u.fresh() + strings.Repeat("/y", u.r.IntN(40))
	l := u.place()
	u.makeEntry(fp.OpSymlink, n, l, l.dir.id, l.name, n.target)
}

func (u *User) link() {
	n, _ := u.named(0)
	if n == nil {
		return
	}
	l := u.place()
	u.makeEntry(fp.OpLink, n, l, l.dir.id, wire(fp.LinkIn{OldNodeID: n.id}), l.name)
}

// remove removes a name, and wants an errno.
func (u *User) remove(op fp.Opcode, l link, want unix.Errno) bool {
	_, err := u.do(&frontend.Request{Op: op, NodeID: l.dir.id}, l.name, l.name)
	if !u.want(err, want) {
		return false
	}
	u.cut(l)
	return true
}

func (u *User) unlink() {
	switch u.r.IntN(6) {
	case 0:
		u.remove(fp.OpUnlink, link{u.dir(), u.fresh()}, unix.ENOENT)
	case 1:
		if n, l := u.named(unix.S_IFDIR); n != nil {
			u.remove(fp.OpUnlink, l, unix.EISDIR)
		}
	default:
		if n, l := u.named(0); n != nil {
			u.remove(fp.OpUnlink, l, 0)
		}
	}
}

func (u *User) rmdir() {
	switch u.r.IntN(8) {
	case 0:
		u.remove(fp.OpRmdir, link{u.dir(), u.fresh()}, unix.ENOENT)
	case 1:
		if n, l := u.named(0); n != nil {
			u.remove(fp.OpRmdir, l, unix.ENOTDIR)
		}
	default:
		n, l := u.named(unix.S_IFDIR)
		switch {
		case n == nil:
		case len(n.kids) > 0:
			u.remove(fp.OpRmdir, l, unix.ENOTEMPTY)
		default:
			u.remove(fp.OpRmdir, l, 0)
		}
	}
}

// below reports whether a directory is n or in it.
func below(dir, n *node) bool {
	for ; dir != nil; dir = dir.links[0].dir {
		if dir == n {
			return true
		}
		if len(dir.links) == 0 {
			return false
		}
	}
	return false
}

// move sends a RENAME.
func (u *User) move(from, to link, flags uint32, want unix.Errno) bool {
	r := &frontend.Request{Op: fp.OpRename2, NodeID: from.dir.id}
	head := wire(fp.Rename2In{NewDir: to.dir.id, Flags: flags})
	if flags == 0 && u.r.IntN(2) == 0 {
		r.Op, head = fp.OpRename, wire(fp.RenameIn{NewDir: to.dir.id})
	}
	_, err := u.do(r, from.name+" to "+to.name, head, from.name, to.name)
	return u.want(err, want)
}

// rename moves a file or directory to a new name or over another one.
func (u *User) rename() {
	n, from := u.named([]uint32{0, 0, unix.S_IFDIR}[u.r.IntN(3)])
	if n == nil {
		return
	}
	to := u.place()
	over := to.dir.kids[to.name]
	if n.isDir() && below(to.dir, n) || over != nil && over.isDir() && below(from.dir, over) {
		return
	}
	flags := uint32(u.r.IntN(2)) // RENAME_NOREPLACE
	want := unix.Errno(0)
	switch {
	case u.r.IntN(10) == 0:
		u.move(link{from.dir, u.fresh()}, to, flags, unix.ENOENT)
		return
	case over != nil && flags != 0:
		want = unix.EEXIST
	case over == nil || over == n && from != to:
	case over.isDir() && !n.isDir():
		want = unix.EISDIR
	case !over.isDir() && n.isDir():
		want = unix.ENOTDIR
	case over.isDir() && over != n && len(over.kids) > 0:
		want = unix.ENOTEMPTY
	}
	if !u.move(from, to, flags, want) || over == n {
		return // two names of a file: nothing happens
	}
	if over != nil {
		u.cut(to)
	}
	u.put(n, to)
	u.cut(from)
}

func (u *User) exchange() {
	n, a := u.named([]uint32{0, unix.S_IFDIR}[u.r.IntN(2)])
	if n == nil {
		return
	}
	m, b := u.named([]uint32{0, unix.S_IFDIR}[u.r.IntN(2)])
	if m == nil || n == m || n.isDir() && below(b.dir, n) || m.isDir() && below(a.dir, m) {
		return
	}
	if u.r.IntN(8) == 0 {
		u.move(a, link{b.dir, u.fresh()}, unix.RENAME_EXCHANGE, unix.ENOENT)
		return
	}
	if u.move(a, b, unix.RENAME_EXCHANGE, 0) {
		u.put(n, b)
		u.put(m, a)
		for _, x := range []struct {
			n *node
			l link
		}{{n, a}, {m, b}} {
			for i, l := range x.n.links {
				if l == x.l {
					x.n.links = append(x.n.links[:i], x.n.links[i+1:]...)
					break
				}
			}
		}
	}
}
