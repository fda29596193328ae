package relay

import (
	"sync/atomic"
	"testing"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestListingBegunAnew: a listing that goes on in the middle after the positions were forgotten, as when the program was
// started again during two READDIRs, leaves no position that is counted and not there.
func TestListingBegunAnew(t *testing.T) {
	fs, d := &FS{}, new(listing)
	d.mu.Lock()
	ok := d.give(fs, 1, 77) && d.give(fs, 5, 88) && d.give(fs, 6, 99)
	d.mu.Unlock()
	if !ok {
		t.Fatal("no room for three positions")
	}
	for off, want := range map[uint64]uint64{1: 77, 5: 88, 6: 99} {
		if pos, ok := d.position(off); !ok || pos != want {
			t.Errorf("position %d is %d, %v", off, pos, ok)
		}
	}
	if pos, ok := d.position(3); ok && pos != 0 {
		t.Errorf("position 3, which was never given, is %d", pos)
	}
	if d.clear(fs); fs.positions.Load() != 0 {
		t.Errorf("%d positions are counted after all", fs.positions.Load())
	}
}

// TestReleaseWhileOpenedAgain: RELEASE, which may not wait for the program, does not wait for a request that opens the file
// again.
func TestReleaseWhileOpenedAgain(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", 0o100644, "text")
	g := newGuest(t, m, Options{})
	node := g.lookup(1, "file").NodeID
	fh := g.open(fp.OpOpen, node, 0)
	f := g.fs.files.Acquire(fh)
	defer g.fs.files.Release(f)
	f.mu.Lock() // as reopen does
	var late atomic.Bool
	end := time.AfterFunc(deadline/2, func() {
		late.Store(true)
		f.mu.Unlock()
	})
	g.must(fp.OpRelease, node, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
	if end.Stop() {
		f.mu.Unlock()
	}
	if late.Load() {
		t.Error("RELEASE has waited for the program")
	}
}

// TestForgetsAreBounded: a program that reads little and tells of ever new nodes does not make the relay keep a count for each.
func TestForgetsAreBounded(t *testing.T) {
	l := &link{forgets: make(map[uint64]uint64), queue: []*call{{}}, flusher: true, maxForgets: 3}
	for id := range uint64(10) {
		l.forget(100+id, 1)
	}
	if len(l.forgets) != 3 {
		t.Errorf("%d counts are kept, want 3", len(l.forgets))
	}
	if l.forget(100, 4); l.forgets[100] != 5 {
		t.Errorf("a node that is kept has a count of %d, want 5", l.forgets[100])
	}
}
