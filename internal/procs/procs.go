// Package procs decides how many processors the Go scheduler has (GOMAXPROCS): few while
// there is little to do at the same time. Each that goroutines have run on keeps memory of
// its own, some tens of KiB, and sets off threads that have stacks.
//
// It says nothing about real processors: what may run at the same time is up to the
// kernel.
package procs

import (
	"runtime"
	"sync"
)

var state struct {
	mu      sync.Mutex // guards the rest
	known   bool       // own and most are set
	own     int        // for all goroutines but workers
	most    int        // that own may become
	workers int
}

// know finds out what the process has been started with; state.mu is held.
func know() {
	if !state.known {
		state.known = true
		state.most = runtime.GOMAXPROCS(0)
		state.own = state.most
	}
}

// set is called with state.mu held.
func set() {
	if n := state.own + state.workers; n != runtime.GOMAXPROCS(0) { // which stops all goroutines for a moment
		runtime.GOMAXPROCS(n)
	}
}

// Lean leaves one processor to all goroutines but workers until Want asks for more, of
// which it gets most. For the start of a program.
func Lean(most int) {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.known = true
	state.own, state.most = 1, most
	set()
}

// Want says that n goroutines may be busy or in system calls at the same time. It never
// leaves them more processors than the process was started with, and takes none away.
func Want(n int) {
	state.mu.Lock()
	defer state.mu.Unlock()
	know()
	state.own = max(state.own, min(n, state.most))
	set()
}

// AddWorkers adds processors for n more workers, or takes them away: goroutines that
// sleep in system calls. For the scheduler such a one keeps its processor until a monitor
// thread takes it away, which may be ten milliseconds later. With as many workers as
// processors, a request that was handed to another goroutine would wait as long.
func AddWorkers(n int) {
	state.mu.Lock()
	defer state.mu.Unlock()
	know()
	state.workers += n
	set()
}
