package nodes

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// open is an open file of tests.
type open struct {
	OpenFile
	node uint64
}

// openLedger is an OpenRecorder that keeps what it was told.
type openLedger struct {
	mu    sync.Mutex
	files map[uint64]uint64
	twice int
	full  bool // refuses what is opened
}

func (l *openLedger) Opened(_ *fuse.Cell, f *open) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return false
	}
	if _, ok := l.files[f.ID()]; ok {
		l.twice++
	}
	l.files[f.ID()] = f.node
	return true
}

func (l *openLedger) Closed(f *open) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files[f.ID()] != f.node {
		l.twice++
	}
	delete(l.files, f.ID())
}

// TestOpenFiles compares open files with a map.
func TestOpenFiles(t *testing.T) {
	l := &openLedger{files: map[uint64]uint64{}}
	gone := map[*open]int{}
	files := NewOpenFiles[open](OpenConfig[open]{Recorder: l, Gone: func(f *open) { gone[f]++ }})
	random := rand.New(rand.NewPCG(5, 5))
	want := map[uint64]*open{}
	used := map[uint64]bool{}
	ended := []uint64{0, 1 << 40, 1<<64 - 1}
	for range 20_000 {
		if random.IntN(2) == 0 || len(want) == 0 {
			f := &open{node: random.Uint64()}
			l.full = random.IntN(20) == 0
			id := files.Add(nil, f)
			if l.full {
				if id != 0 {
					t.Fatalf("id %#x is not recorded", id)
				}
				continue
			}
			if id == 0 || used[id] || f.ID() != id {
				t.Fatalf("id %#x is used twice", id)
			}
			used[id], want[id] = true, f
			continue
		}
		for id, f := range want {
			if files.Acquire(id) != f || !files.Has(f) || files.Acquire(id+1<<32) != nil {
				t.Fatalf("%#x is lost", id)
			}
			if !files.Close(f) || files.Close(f) || files.Has(f) || files.Acquire(id) != nil || gone[f] != 0 {
				t.Fatalf("%#x is not closed once", id)
			}
			files.Release(f)
			if gone[f] != 1 || f.Acquire() {
				t.Fatalf("%#x is gone %d times", id, gone[f])
			}
			delete(want, id)
			ended = append(ended, id)
			break
		}
	}
	for _, id := range ended {
		if files.Acquire(id) != nil {
			t.Fatalf("%#x leads to a file", id)
		}
	}
	n := 0
	for f := range files.All {
		if want[f.ID()] != f || l.files[f.ID()] != f.node {
			t.Fatalf("%#x is not there", f.ID())
		}
		n++
		files.Close(f)
	}
	if n != len(want) || len(l.files) != 0 || l.twice != 0 || len(gone) != len(used) {
		t.Errorf("%d files listed of %d, %d recorded, %d twice, %d of %d gone", n, len(want), len(l.files), l.twice, len(gone), len(used))
	}
}

// TestOpenFilesAgain: files that are used again while threads guess their numbers. Who
// gets one has the one of that number.
func TestOpenFilesAgain(t *testing.T) {
	var pool sync.Pool
	l := &openLedger{files: map[uint64]uint64{}}
	files := NewOpenFiles[open](OpenConfig[open]{Recorder: l, Gone: func(f *open) {
		f.node = 0
		pool.Put(f)
	}})
	var current [4]atomic.Uint64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for reader := range 3 {
		wg.Go(func() {
			for i := reader; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := current[i%len(current)].Load()
				if i%5 == 0 {
					id += 1 << 32
				}
				f := files.Acquire(id)
				if f == nil {
					continue
				}
				if f.ID() != id || f.node != uint64(i%len(current)+1) && i%5 != 0 {
					t.Errorf("%#x is %#x of node %d", id, f.ID(), f.node)
				}
				if i%7 == 0 {
					files.Close(f)
				}
				files.Release(f)
			}
		})
	}
	for range 20_000 {
		for i := range current {
			f, _ := pool.Get().(*open)
			if f == nil {
				f = new(open)
			}
			f.node = uint64(i + 1)
			id := files.Add(nil, f)
			current[i].Store(id)
			if g := files.Acquire(id); g != nil {
				files.Close(g)
				files.Release(g)
			}
		}
	}
	close(stop)
	wg.Wait()
	if len(l.files) != 0 || l.twice != 0 {
		t.Errorf("%d files are recorded, %d twice", len(l.files), l.twice)
	}
	if end := files.End(); end > 100 {
		t.Errorf("%d slots for 4 files", end)
	}
}

// TestOpenFilesAdopt: open files with the ids of another table.
func TestOpenFilesAdopt(t *testing.T) {
	files := NewOpenFiles[open](OpenConfig[open]{})
	f := &open{node: 1}
	if !files.Adopt(f, 3<<32|7, 100) || files.Acquire(3<<32|7) != f {
		t.Error("an id can't be adopted")
	}
	for _, id := range []uint64{7, 3<<32 | 7, 0, 100, 1 << 40, 1<<64 - 1} {
		if g := new(open); files.Adopt(g, id, 100) || g.Acquire() {
			t.Errorf("id %#x is adopted", id)
		}
	}
	files.Settle(9, 5)
	if files.End() != 9 || files.Generations() != 6 {
		t.Errorf("ends at %d, generation %d", files.End(), files.Generations())
	}
	for range 20 {
		if id := files.Add(nil, new(open)); id>>32 != 6 && uint32(id) < 9 {
			t.Errorf("id %#x may have been used there", id)
		}
	}
}
