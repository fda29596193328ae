// Command started says how the entry point of package dormant has started it: with how
// many processors, with which arguments and environment, and whether huge pages are off
// before and after AllowHugePages.
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/dormant"
)

func main() {
	started := runtime.GOMAXPROCS(0)
	fmt.Println(started, dormant.Processors(), dormant.Processors())
	fmt.Printf("%q\n%q\n", os.Args[1:], os.Environ())
	before, err1 := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	dormant.SmallPages()
	err2 := dormant.AllowHugePages()
	after, err3 := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	fmt.Println(before, after, err1, err2, err3)
}
