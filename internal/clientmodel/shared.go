package clientmodel

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Shared is a directory in which all users make the same few names. A name is a lock: of those who
// make it at the same time one succeeds, all others get EEXIST, and it is the former who removes
// it.
type Shared struct {
	id    uint64
	names sharedNames
	locks sharedLocks
}

// sharedNames is what is known of the names by all.
type sharedNames struct {
	mu   sync.Mutex
	list [3]sharedName
}

type sharedName struct {
	held     bool
	underWay int    // requests that make or remove it
	ended    uint64 // such requests
}

// NewShared makes the directory, and in it a file that is locked by all.
func NewShared(c *frontend.Client) (*Shared, error) {
	e, err := c.Mkdir(fp.RootID, "shared", 0o777)
	if err != nil {
		return nil, err
	}
	out, err := c.Create(e.NodeID, lockedName, unix.O_RDWR|unix.O_CREAT, 0o666)
	if err != nil {
		return nil, err
	}
	return &Shared{id: e.NodeID}, c.Release(out.Entry.NodeID, out.Open.Fh)
}

// contend tries to make a shared name, in one of six ways. Who has it removes it again.
func (u *User) contend() {
	i := u.r.IntN(len(u.others.names.list))
	l := link{u.shared, fmt.Sprint("lock", i)}
	kind := u.r.IntN(6)
	var from link
	var n *node
	if kind >= 4 {
		if n, from = u.named(0); n == nil {
			return
		}
	}
	at := &u.others.names.list[i]
	u.others.names.mu.Lock()
	before := *at
	at.underWay++
	u.others.names.mu.Unlock()

	n, err := u.acquire(kind, n, from, l)

	u.others.names.mu.Lock()
	defer u.others.names.mu.Unlock()
	at.underWay--
	at.ended++
	switch {
	case err == nil && at.held:
		u.fail("%s was made a second time", l.name)
	case err == nil:
		at.held = true
		u.others.names.mu.Unlock()
		u.yield(n, l, at)
		u.others.names.mu.Lock()
	case !errors.Is(err, unix.EEXIST):
		u.want(err, unix.EEXIST)
	case !before.held && before.underWay == 0 && at.underWay == 0 && at.ended == before.ended+1:
		u.fail("%s: EEXIST, and nobody has made it", l.name)
	}
}

// acquire makes the name. What it is then is known to this user only.
func (u *User) acquire(kind int, n *node, from, l link) (*node, error) {
	entry := func(op fp.Opcode, n *node, parts ...any) (*node, error) {
		b, err := u.do(&frontend.Request{Op: op, NodeID: l.dir.id, Reply: fp.Size[fp.EntryOut]()}, fmt.Sprintf("shared %s of %d", l.name, n.id), parts...)
		if err == nil {
			u.put(n, l)
			u.granted(n, take[fp.EntryOut](u, b))
		}
		return n, err
	}
	fresh := func(mode uint32) *node {
		n := u.made(mode)
		n.uid, n.gid = 0, 0
		return n
	}
	switch kind {
	case 0:
		return entry(fp.OpMkdir, fresh(unix.S_IFDIR|0o777), wire(fp.MkdirIn{Mode: 0o777}), l.name)
	case 1:
		return entry(fp.OpMknod, fresh(unix.S_IFREG|0o600), wire(fp.MknodIn{Mode: unix.S_IFREG | 0o600}), l.name)
	case 2:
		n := fresh(unix.S_IFLNK | 0o777)
		n.target = "same"
		return entry(fp.OpSymlink, n, l.name, n.target)
	case 3:
		n := fresh(unix.S_IFREG | 0o600)
		b, err := u.do(&frontend.Request{Op: fp.OpCreate, NodeID: l.dir.id, Reply: fp.Size[fp.CreateOut]()}, "shared "+l.name,
			wire(fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, Mode: n.mode}), l.name)
		if err == nil {
			out := take[fp.CreateOut](u, b)
			u.put(n, l)
			u.granted(n, out.Entry)
			u.opened(n, out.Open.Fh, unix.O_RDWR)
		}
		return n, err
	case 4:
		return entry(fp.OpLink, n, wire(fp.LinkIn{OldNodeID: n.id}), l.name)
	}
	_, err := u.do(&frontend.Request{Op: fp.OpRename2, NodeID: from.dir.id}, from.name+" to shared "+l.name,
		wire(fp.Rename2In{NewDir: l.dir.id, Flags: unix.RENAME_NOREPLACE}), from.name, l.name)
	if err == nil {
		u.put(n, l)
		u.cut(from)
	}
	return n, err
}

// yield removes the name, or moves what it is to the user's directory.
func (u *User) yield(n *node, l link, at *sharedName) {
	u.others.names.mu.Lock()
	at.held = false
	at.underWay++
	u.others.names.mu.Unlock()
	switch {
	case u.r.IntN(2) == 0:
		to := link{u.root, u.fresh()}
		if u.move(l, to, unix.RENAME_NOREPLACE, 0) {
			u.put(n, to)
			u.cut(l)
		}
	case n.isDir():
		u.remove(fp.OpRmdir, l, 0)
	default:
		u.remove(fp.OpUnlink, l, 0)
	}
	u.others.names.mu.Lock()
	at.underWay--
	at.ended++
	u.others.names.mu.Unlock()
}
