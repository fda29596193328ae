package nodes

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestThreads lets threads look up, rename, open, list and forget the same few files at
// once, as queues do. In the end everything is gone once, and the ledger has the root only.
func TestThreads(t *testing.T) {
	l := newLedger()
	var mu sync.Mutex
	made, gone := map[*file]bool{}, map[*file]int{}
	table := New[uint64, file](Config[uint64, file]{Recorder: l, Gone: func(n *file) {
		mu.Lock()
		defer mu.Unlock()
		gone[n]++
	}})
	root := table.Intern(nil, 1000, nil, func() *file { return new(file) })
	var wg sync.WaitGroup
	for thread := range uint64(6) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(thread, 3))
			var ids []uint64
			for range 4000 {
				key, born := random.Uint64N(20), random.Uint64N(20)/19
				n := table.Intern(nil, key, func(n *file) bool { return n.born == born }, func() *file {
					n := &file{born: born}
					mu.Lock()
					defer mu.Unlock()
					made[n] = true
					return n
				})
				if n.Key() != key || n.born != born {
					t.Errorf("key %d born %d is %d born %d", key, born, n.Key(), n.born)
				}
				ids = append(ids, n.ID())
				name := fp.Name(fmt.Sprintf("%d\x00", random.Uint64N(3)))
				parent := root
				if random.IntN(2) == 0 && key > 0 { // of a smaller key: no circles
					if p := table.Find(nil, random.Uint64N(key), 0, nil); p != nil {
						parent = p
						defer table.Release(p) // long after: children outlive what the client knows
					}
				}
				table.Place(n, parent, name)
				table.SetHint(parent, name, n)
				if p, _ := table.Location(n); p != nil {
					table.Release(p)
				}
				if m := table.Placed(parent, name); m != nil {
					table.Release(m)
				}
				if random.IntN(3) == 0 {
					table.Displace(n)
				}
				table.Release(n)
				if random.IntN(3) > 0 {
					continue
				}
				for _, id := range ids {
					n := table.Acquire(id)
					if n == nil {
						t.Errorf("node %#x is lost with a lookup to its name", id)
						continue
					}
					if n.ID() != id {
						t.Errorf("node %#x is %#x", id, n.ID())
					}
					table.Forget(nil, n, 1)
					table.Release(n)
				}
				ids = nil
			}
			for _, id := range ids {
				n := table.Acquire(id)
				table.Forget(nil, n, 1)
				table.Release(n)
			}
		})
	}
	stop := make(chan struct{})
	var observer sync.WaitGroup
	observer.Go(func() { // an evictor, and a thread with ids that it has no lookup of
		for i := uint32(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for n := range table.All {
				if n.ID() == 0 {
					t.Error("a node without id is listed")
				}
			}
			if n := table.Get(uint64(i % 64)); n != nil && n.TryExclusive() {
				table.EndExclusive(n)
			}
		}
	})
	wg.Wait()
	close(stop)
	observer.Wait()
	for n := range made {
		if gone[n] != 1 {
			t.Errorf("%#x is gone %d times", n.ID(), gone[n])
		}
	}
	l.check(t, table)
	if len(l.nodes) != 1 {
		t.Errorf("%d nodes are left in the ledger", len(l.nodes))
	}
}
