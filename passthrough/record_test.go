package passthrough

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// recorded is what a successor of a daemon would have to know.
type recorded struct {
	mu    sync.Mutex
	nodes map[uint32]recordedNode // by slot
	opens map[uint64]recordedOpen
	odd   []string
}

type recordedNode struct {
	id, lookups, parent uint64
	key                 key
	birth               birth
	name, fileHandle    string
}

type recordedOpen struct {
	node  uint64
	flags uint32
}

func (r *recorded) change(n *inode, what string, f func(e *recordedNode)) {
	r.changeID(n.ID(), what, f)
}

func (r *recorded) changeID(id uint64, what string, f func(e *recordedNode)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.nodes[uint32(id)]
	if ok == (what == "added") || ok && e.id != id {
		r.odd = append(r.odd, fmt.Sprintf("%#x is %s, recorded as %+v", id, what, e))
	}
	f(&e)
	r.nodes[uint32(id)] = e
}

func (r *recorded) Added(_ *fuse.Cell, n *inode, lookups uint64) bool {
	r.change(n, "added", func(e *recordedNode) {
		*e = recordedNode{id: n.ID(), lookups: lookups, key: n.Key(), birth: n.birth()}
		e.place(n)
	})
	return true
}

func (r *recorded) Granted(_ *fuse.Cell, id, lookups uint64) bool {
	r.changeID(id, "granted", func(e *recordedNode) { e.lookups = lookups })
	return true
}

func (r *recorded) Counted(_ *fuse.Cell, n *inode, lookups uint64) {
	r.change(n, "counted", func(e *recordedNode) { e.lookups = lookups })
}

func (r *recorded) Unkeyed(n *inode) {
	r.change(n, "without its key", func(*recordedNode) {})
}

func (r *recorded) Placed(n *inode) {
	r.change(n, "placed", func(e *recordedNode) { e.place(n) })
}

func (e *recordedNode) place(n *inode) {
	e.parent, e.name, e.fileHandle = 0, "", string(n.FileHandle())
	if p := n.Parent(); p != nil {
		e.parent, e.name = p.ID(), n.Name().String()
	}
}

func (r *recorded) Forgotten(_ *fuse.Cell, n *inode) {
	r.change(n, "forgotten", func(e *recordedNode) { e.lookups = 0 })
}

func (r *recorded) Gone(n *inode) {
	r.change(n, "gone", func(*recordedNode) {})
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, uint32(n.ID()))
}

func (r *recorded) Opened(_ *fuse.Cell, f *openFile) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opens[f.ID()] = recordedOpen{f.node.ID(), f.flags}
	return true
}

func (r *recorded) Closed(f *openFile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.opens, f.ID())
}

// check compares what was recorded with what there is. No request runs.
func (r *recorded) check(t *testing.T, fs *FS) {
	t.Helper()
	for _, s := range r.odd {
		t.Error(s)
	}
	known := 0
	for n := range fs.nodes.All {
		known++
		want := recordedNode{id: n.ID(), lookups: fs.nodes.Lookups(n), key: n.Key(), birth: n.birth()}
		want.place(n)
		if got := r.nodes[uint32(n.ID())]; got != want {
			t.Errorf("recorded %+v, want %+v", got, want)
		}
	}
	for _, e := range r.nodes {
		if e.lookups > 0 {
			known--
		}
	}
	if known != 0 {
		t.Errorf("%d nodes are not recorded", known)
	}
	opens := map[uint64]recordedOpen{}
	for f := range fs.openFiles.All {
		opens[f.ID()] = recordedOpen{f.node.ID(), f.flags}
	}
	if len(opens) != len(r.opens) {
		t.Errorf("%d open files are recorded, want %d", len(r.opens), len(opens))
	}
	for id, want := range opens {
		if r.opens[id] != want {
			t.Errorf("open file %#x is recorded as %+v, want %+v", id, r.opens[id], want)
		}
	}
}

// TestRecorder lets threads make, rename, open, list, remove and forget files of the same
// few names. What a recorder was told must be what there is.
func TestRecorder(t *testing.T) {
	rec := &recorded{nodes: map[uint32]recordedNode{}, opens: map[uint64]recordedOpen{}}
	s := newShare(t, func(c *Config) {
		c.recordNodes, c.recordOpens = rec, rec
		c.MaxFDs = 64 // so that nodes get file handles as their descriptors are closed
	}, 0)
	g := s.guest()
	var wg sync.WaitGroup
	for thread := range uint64(4) {
		wg.Go(func() {
			g := s.guest()
			random := rand.New(rand.NewPCG(thread, 1))
			dirs := []uint64{fp.RootID}
			any := func() fp.Name { return name(fmt.Sprint(random.IntN(12))) }
			for range 800 {
				dir := dirs[random.IntN(len(dirs))]
				var entry fp.EntryOut
				switch random.IntN(8) {
				case 0:
					var out fp.CreateOut
					if g.fs.Create(g.on(dir), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, any(), &out) == 0 && random.IntN(8) > 0 {
						g.release(out.Entry.NodeID, out.Open.Fh)
					}
				case 1:
					if g.fs.Mkdir(g.on(dir), &fp.MkdirIn{Mode: 0o755}, any(), &entry) == 0 && len(dirs) < 8 {
						dirs = append(dirs, entry.NodeID)
					}
				case 2:
					_ = g.fs.Rename(g.on(dir), &fp.Rename2In{NewDir: dirs[random.IntN(len(dirs))]}, any(), any())
				case 3:
					_ = g.fs.Unlink(g.on(dir), any())
				case 4:
					_ = g.fs.Rmdir(g.on(dir), any())
				case 5:
					if g.fs.Lookup(g.on(dir), any(), &entry) == 0 {
						if out, errno := g.tryOpen(entry.NodeID, unix.O_RDONLY); errno == 0 {
							g.release(entry.NodeID, out.Fh)
						}
						g.fs.Forget(nil, entry.NodeID, uint64(1+random.IntN(3)))
					}
				case 6:
					var out fp.OpenOut
					if g.fs.Opendir(g.on(dir), &fp.OpenIn{}, &out) == 0 {
						_ = g.fs.Readdirplus(g.on(dir), &fp.ReadIn{Fh: out.Fh, Size: 4096}, server.NewDirWriter(make([]byte, 4096)))
						_ = g.fs.Releasedir(g.on(dir), &fp.ReleaseIn{Fh: out.Fh})
					}
				case 7:
					_ = g.fs.Link(g.on(dir), &fp.LinkIn{OldNodeID: uint64(2 + random.IntN(9))}, any(), &entry)
				}
			}
		})
	}
	wg.Wait()
	rec.check(t, g.fs)
	if len(rec.nodes) < 5 || len(rec.opens) == 0 {
		t.Errorf("%d nodes and %d open files are too few to tell", len(rec.nodes), len(rec.opens))
	}
	g.fs.Destroy()
	rec.check(t, g.fs)
	if len(rec.nodes) != 1 || len(rec.opens) != 0 {
		t.Errorf("%d nodes and %d open files are left", len(rec.nodes), len(rec.opens))
	}
}
