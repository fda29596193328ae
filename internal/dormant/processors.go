package dormant

import (
	"os"
	"runtime"
)

// told says that the entry point has put GOMAXPROCS=1 in the environment.
var told bool

// Processors is how many processors Go's scheduler may have: what the environment says
// (GOMAXPROCS), or as many as the process may run on. A cgroup's quota, which Go's default
// heeds, is not counted: to find it out the scheduler would have to be given as many. Threads
// that wait for a disk need a processor of the scheduler's, and hardly time on a real one.
//
// The entry point has the runtime start with one, as it makes 16 KiB for each at its start
// and keeps them, those of a machine with many processors, too. The first call takes the
// variable out of the environment again.
func Processors() int {
	if !told {
		return runtime.GOMAXPROCS(0)
	}
	_ = os.Unsetenv("GOMAXPROCS")
	return runtime.NumCPU()
}
