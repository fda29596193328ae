package paged

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestArray compares elements far apart with a map while other goroutines read.
func TestArray(t *testing.T) {
	var a Array[atomic.Uint64]
	if a.At(0) != nil || a.Page(1<<20) != nil || a.At(1<<32-1) != nil {
		t.Error("an array that is not used has elements")
	}
	want := map[uint32]*atomic.Uint64{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint32(1); ; i = i*3 + 1 {
			select {
			case <-stop:
				return
			default:
			}
			if e := a.At(i % (1 << 20)); e != nil {
				if v := e.Load(); v != 0 && v != uint64(i%(1<<20)) {
					t.Errorf("element %d is %d", i%(1<<20), v)
				}
			}
		}
	})
	for i := uint32(1); i < 1<<20; i = i*5/3 + 1 {
		e := a.Make(i)
		e.Store(uint64(i))
		want[i] = e
	}
	close(stop)
	wg.Wait()
	for i, e := range want {
		if a.At(i) != e || a.Make(i) != e || e.Load() != uint64(i) {
			t.Errorf("element %d has moved or changed", i)
		}
		if page := a.Page(i / PageSize); &page[i%PageSize] != e {
			t.Errorf("element %d is not in its page", i)
		}
	}
}
