package dormant

import (
	"os"
	"runtime"
)

// told says that the entry point has put GOMAXPROCS=1 in the environment.
var told bool

// Processors is how many processors Go's scheduler would have if the program had another
// entry point: this one has it start with one, unless the environment has GOMAXPROCS. The
// runtime makes 16 KiB for each at its start and keeps them, those of a machine with many
// processors, too. The first call takes the variable out of the environment again.
func Processors() int {
	if !told {
		return runtime.GOMAXPROCS(0)
	}
	_ = os.Unsetenv("GOMAXPROCS")
	return runtime.NumCPU()
}
