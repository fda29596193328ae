package virtiofs

import (
	"runtime"
	"sync"
)

// A worker sleeps in a system call, and for the Go scheduler a goroutine in a system
// call keeps its processor (P) until a monitor thread takes it away, which may be ten
// milliseconds later. With as many workers as processors, a request that was handed
// to another goroutine would wait as long. So each worker brings a processor of its
// own; what may really run at the same time is up to the kernel.
var procs struct {
	mu      sync.Mutex // guards the rest
	workers int
	own     int // without workers
}

// addProcs adds n processors for n more workers, or takes them away.
func addProcs(n int) {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	if procs.workers == 0 {
		procs.own = runtime.GOMAXPROCS(0)
	}
	procs.workers += n
	runtime.GOMAXPROCS(procs.own + procs.workers)
}
