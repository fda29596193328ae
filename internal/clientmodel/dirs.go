package clientmodel

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// listing is an open directory that is being read.
type listing struct {
	n       *node
	fh      uint64
	off     uint64
	had     []string // at its start
	seen    map[string]bool
	touched map[string]bool // names that came or went since
}

func (u *User) opendir() {
	if len(u.lists) > 3 {
		return
	}
	n := u.dir()
	b, err := u.do(&frontend.Request{Op: fp.OpOpendir, NodeID: n.id, Reply: fp.Size[fp.OpenOut]()}, "", wire(fp.OpenIn{}))
	if !u.want(err, 0) {
		return
	}
	s := &listing{n: n, fh: take[fp.OpenOut](u, b).Fh, seen: map[string]bool{}, touched: map[string]bool{}}
	for name := range n.kids {
		s.had = append(s.had, name)
	}
	n.opens++
	u.lists = append(u.lists, s)
}

// readdir reads a bit of a directory. At its end it closes it.
func (u *User) readdir() {
	if len(u.lists) == 0 {
		return
	}
	s := u.lists[u.r.IntN(len(u.lists))]
	plus, size := u.r.IntN(2) == 0, 600+u.r.IntN(1200)
	r := &frontend.Request{Op: fp.OpReaddir, NodeID: s.n.id, Read: size}
	if plus {
		r.Op = fp.OpReaddirplus
	}
	b, err := u.do(r, fmt.Sprintf("from %d", s.off), wire(fp.ReadIn{Fh: s.fh, Offset: s.off, Size: uint32(size)}))
	if len(s.n.links) == 0 && s.n != u.root {
		// It was removed. A Linux guest does not ask any more; the host's kernel reads nothing of it, and
		// does not find the position again if it has to.
		if !errors.Is(err, unix.EINVAL) {
			u.want(err, unix.ENOENT)
		}
		u.endList(s)
		return
	}
	if !u.want(err, 0) {
		return
	}
	if len(b) == 0 {
		u.endList(s)
		return
	}
	for len(b) > 0 && u.err == nil {
		var e fp.EntryOut
		if plus {
			p, rest, _ := fp.View[fp.EntryOut](b)
			e, b = *p, rest
		}
		h, rest, ok := fp.View[fp.Dirent](b)
		if !ok || len(rest) < int(h.NameLen) {
			u.fail("a listing that ends in the middle")
			return
		}
		name := string(rest[:h.NameLen])
		b = b[fp.DirentAlign(fp.Size[fp.Dirent]()+int(h.NameLen)):]
		s.off = h.Off
		u.listed(s, name, e)
	}
}

// listed is an entry of a listing.
func (u *User) listed(s *listing, name string, e fp.EntryOut) {
	if name == "." || name == ".." {
		return
	}
	kid := s.n.kids[name]
	switch {
	case e.NodeID != 0 && kid == nil:
		u.fail("%q of node %d is not there", name, e.NodeID)
	case e.NodeID != 0:
		u.granted(kid, e)
	}
	if s.touched[name] {
		return
	}
	if s.seen[name] || !slices.Contains(s.had, name) {
		u.fail("%q is listed a second time, or is not there", name)
	}
	s.seen[name] = true
}

func (u *User) endList(s *listing) {
	for _, name := range s.had {
		if !s.seen[name] && !s.touched[name] {
			u.fail("%q was not listed", name)
		}
	}
	_, err := u.do(&frontend.Request{Op: fp.OpReleasedir, NodeID: s.n.id}, "", wire(fp.ReleaseIn{Fh: s.fh}))
	if u.want(err, 0) {
		s.n.opens--
		u.lists = slices.DeleteFunc(u.lists, func(o *listing) bool { return o == s })
	}
}

// droppable reports whether a client may forget a node for good: nothing of it is open, and nothing
// that is in it is known.
func (n *node) droppable() bool {
	if n.id == 0 || n.opens > 0 {
		return false
	}
	for _, k := range n.kids {
		if k.id != 0 {
			return false
		}
	}
	return true
}

// less counts lookups down.
func (u *User) less(n *node, by uint64) {
	if n.lookups -= by; n.lookups == 0 {
		n.id = 0
		u.tidy(n)
	}
}

// forget gives some or all lookups of a node back. A client that has given all of them back finds that
// the node is not known any more; and not before.
func (u *User) forget() {
	if len(u.nodes) == 0 {
		return
	}
	n := u.nodes[u.r.IntN(len(u.nodes))]
	if n.id == 0 {
		return
	}
	by := 1 + uint64(u.r.IntN(int(n.lookups)))
	if by == n.lookups && !n.droppable() {
		by--
	}
	if by == 0 {
		return
	}
	u.forgetBy(n, by)
}

func (u *User) forgetBy(n *node, by uint64) {
	id := n.id
	u.hiprio(&frontend.Request{Op: fp.OpForget, NodeID: id, Reply: -1, Body: wire(fp.ForgetIn{NLookup: by})}, fmt.Sprint(by))
	u.less(n, by)
	if n.id == 0 && u.err == nil {
		u.gone(id)
	}
}

// gone checks that the server does not know a node.
func (u *User) gone(id uint64) {
	for end := time.Now().Add(20 * time.Second); ; {
		_, err := u.do(&frontend.Request{Op: fp.OpGetattr, NodeID: id, Reply: fp.Size[fp.AttrOut]()}, "(forgotten)", wire(fp.GetattrIn{}))
		if err != nil || time.Now().After(end) {
			u.want(err, unix.ESTALE)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// hiprio sends a request over the queue of FORGETs.
func (u *User) hiprio(r *frontend.Request, about string) {
	u.note(r, about)
	_, err := u.c.DoOn(u.c.Queues[0], r)
	u.served.Add(1)
	u.want(err, 0)
}

func (u *User) forgetMany() {
	var list []*node
	body := wire(fp.BatchForgetIn{})
	for range 1 + u.r.IntN(6) {
		n := u.pickKnown()
		if n == nil || slices.Contains(list, n) || !n.droppable() {
			continue
		}
		list = append(list, n)
		body = append(body, wire(fp.ForgetOne{NodeID: n.id, NLookup: n.lookups})...)
	}
	if len(list) == 0 {
		return
	}
	copy(body, wire(fp.BatchForgetIn{Count: uint32(len(list))}))
	u.hiprio(&frontend.Request{Op: fp.OpBatchForget, Reply: -1, Body: body}, fmt.Sprint(len(list), " nodes"))
	for _, n := range list {
		id := n.id
		u.less(n, n.lookups)
		if u.err == nil {
			u.gone(id)
		}
	}
}

func (u *User) pickKnown() *node {
	if len(u.nodes) == 0 {
		return nil
	}
	if n := u.nodes[u.r.IntN(len(u.nodes))]; n.id != 0 {
		return n
	}
	return nil
}
