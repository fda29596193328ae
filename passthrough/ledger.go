package passthrough

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// What a successor of this process has to know of a share is in a ledger: nodes with their lookup
// counts and places, open files, and how the share was started. See resume.go for its side.

// recovery is what FS keeps about its successor, and has from its predecessor.
type recovery struct {
	store  *ledger.Store // nil: nothing is noted
	mounts mountNumbers
}

// mountNumbers are the numbers of mounts in the ledger: another process, in another mount namespace,
// sees other ids. The share's own mount is 1.
type mountNumbers struct {
	share  uint64     // the share's own mount, on which most nodes are; set once
	mu     sync.Mutex // a leaf
	number map[uint64]uint64
	next   uint64
}

const rootMount = 1

// of is the number of a mount.
func (m *mountNumbers) of(id uint64) uint64 {
	if id == m.share {
		return rootMount
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.number[id]
	if !ok {
		m.next++
		n = m.next
		m.number[id] = n
	}
	return n
}

// set gives a mount a number that it has in the ledger.
func (m *mountNumbers) set(id, number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number[id] = number
	m.next = max(m.next, number)
	if number == rootMount {
		m.share = id
	}
}

// nodeRecorder notes the nodes of a share in the ledger. It is a nodes.Recorder; Granted, which is called most
// often, is the store's own.
type nodeRecorder struct {
	*ledger.Store
	mounts *mountNumbers
	links  *convertedLinks
}

// Added implements nodes.Recorder.
func (r *nodeRecorder) Added(by *fuse.Cell, n *inode, lookups uint64) bool {
	k := n.Key()
	place := placeOf(n)
	return r.AddNode(by, n.ID(), lookups, &ledger.Identity{Mount: r.mounts.of(k.mount), Dev: k.dev, Ino: k.ino,
		BirthSec: n.bornSec, BirthNsec: n.bornNsec, Kind: n.kind}, &place)
}

// placeOf is a node's place and file handle.
func placeOf(n *inode) ledger.Place {
	if p := n.Parent(); p != nil {
		return ledger.Place{Parent: p.ID(), Name: n.Name(), FileHandle: n.FileHandle()}
	}
	return ledger.Place{FileHandle: n.FileHandle()}
}

// Counted implements nodes.Recorder. A count that goes down because a link was forgotten is noted with that.
func (r *nodeRecorder) Counted(by *fuse.Cell, n *inode, lookups uint64) {
	if link := r.links.endsFor(by); link != nil {
		r.EndStandIn(link.ID(), n.ID(), lookups)
		return
	}
	r.CountNode(by, n.ID(), lookups)
}

// Forgotten implements nodes.Recorder.
func (r *nodeRecorder) Forgotten(by *fuse.Cell, n *inode) { r.Counted(by, n, 0) }

// Placed implements nodes.Recorder.
func (r *nodeRecorder) Placed(n *inode) {
	place := placeOf(n)
	r.PlaceNode(n.ID(), &place)
}

// Unkeyed implements nodes.Recorder.
func (r *nodeRecorder) Unkeyed(n *inode) { r.UnkeyNode(n.ID()) }

// Gone implements nodes.Recorder.
func (r *nodeRecorder) Gone(n *inode) { r.RemoveNode(n.ID()) }

// Bits of an open file in the ledger.
const (
	openShared    = 1 << iota // see openless
	openFlock                 // it has a flock lock
	openExclusive             // which is exclusive
)

// openRecorder notes open files in the ledger.
type openRecorder struct{ store *ledger.Store }

// Opened implements nodes.OpenRecorder.
func (r *openRecorder) Opened(by *fuse.Cell, f *openFile) bool {
	return r.store.AddOpen(by, f.ID(), uint32(f.node.ID()), f.flags)
}

// Closed implements nodes.OpenRecorder.
func (r *openRecorder) Closed(f *openFile) { r.store.RemoveOpen(f.ID()) }

// setLedger takes the ledger over, before the root node is made.
func (fs *FS) setLedger() error {
	fs.recovery.mounts.number = map[uint64]uint64{}
	l := fs.cfg.Ledger
	if l == nil {
		return nil
	}
	store, err := l.Store()
	if err != nil {
		return fmt.Errorf("passthrough: %w", err)
	}
	fs.recovery.store = store
	fs.cfg.recordNodes = &nodeRecorder{store, &fs.recovery.mounts, &fs.converted}
	fs.cfg.recordOpens = &openRecorder{store}
	return fs.recordWindow()
}

// sameShare compares the share with the one that the ledger is of, if there was one, and notes it
// otherwise: a successor does what its predecessor did, or it does nothing.
func (fs *FS) sameShare(root *unix.Statx_t) error {
	if fs.recovery.store == nil {
		return nil
	}
	area, err := fs.cfg.Ledger.Area(ledger.AreaFS)
	if err != nil {
		return fmt.Errorf("passthrough: %w", err)
	}
	options, k := fs.cfg.options(), keyOf(root)
	options = append(options, option{"shared directory", fmt.Sprintf("device %#x, inode %d, born %v", k.dev, k.ino, birthOf(root))})
	had, err := readOptions(area.Load())
	if err != nil {
		return fmt.Errorf("passthrough: options in the ledger: %w", err)
	}
	if had != nil {
		return compareOptions(had, options)
	}
	if err := area.Store(writeOptions(options)); err != nil {
		return fmt.Errorf("passthrough: %w", err)
	}
	return nil
}

// option is something that a share does in one way or another, as text.
type option struct{ name, value string }

// options are all those on which it depends what an answer to a client is, or what a file is on
// the host.
func (c *Config) options() []option {
	o := func(name string, v any) option { return option{name, fmt.Sprintf("%+v", v)} }
	list := []option{
		o("cache policy", c.Cache), o("immutable", c.Immutable), o("extended attributes", c.Xattr),
		o("POSIX ACLs", c.PosixACL), o("security labels", c.SecurityLabel), o("writeback", c.Writeback),
		o("direct I/O", c.AllowDirectIO), o("mmap of files that are not cached", c.AllowMmap), o("ownership", c.Ownership),
		o("read-only", c.ReadOnly), o("killpriv", c.KillprivV2), o("idmapped mounts", c.AllowIdmap),
		o("preserved access times", c.PreserveNoatime), o("short positions in directories", c.ShortPositions),
		o("fcntl locks on the host", c.PosixLocks), o("flock locks on the host", c.Flocks),
		o("DAX", c.DAX != nil), o("direct I/O patterns", c.DirectIO), o("direct I/O size", c.DirectIOSize),
	}
	if c.DAX != nil {
		list = append(list, o("DAX window", c.DAX.Table.Size()))
	}
	if c.XattrMap != nil {
		list = append(list, o("map of extended attributes", *c.XattrMap))
	}
	if c.UIDs != nil {
		list = append(list, o("map of users", *c.UIDs))
	}
	if c.GIDs != nil {
		list = append(list, o("map of groups", *c.GIDs))
	}
	return list
}

// Limits of the record of options, which another process has written.
const (
	maxOptions     = 64
	maxOptionBytes = 1 << 20
)

func writeOptions(list []option) []byte {
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(uint64(len(list)))
	for _, o := range list {
		w.Bytes([]byte(o.name))
		w.Bytes([]byte(o.value))
	}
	_ = w.Flush() // to memory
	return b.Bytes()
}

// readOptions is the opposite of writeOptions; nil is an empty record.
func readOptions(b []byte) ([]option, error) {
	if b == nil {
		return nil, nil
	}
	r := record.NewReader(bytes.NewReader(b), maxOptionBytes)
	list := make([]option, r.Max(maxOptions))
	for i := range list {
		list[i] = option{string(r.Bytes(maxOptionBytes)), string(r.Bytes(maxOptionBytes))}
	}
	r.End()
	if r.Err() == nil && len(list) == 0 {
		return nil, errors.New("there are none")
	}
	return list, r.Err()
}

// compareOptions reports the first difference.
func compareOptions(had, has []option) error {
	for i := range max(len(had), len(has)) {
		var a, b option
		if i < len(had) {
			a = had[i]
		}
		if i < len(has) {
			b = has[i]
		}
		if a != b {
			return fmt.Errorf("passthrough: this process was started with other options than the one that it takes over from "+
				"(%s %q there, %s %q here): start it with the same", a.name, a.value, b.name, b.value)
		}
	}
	return nil
}
