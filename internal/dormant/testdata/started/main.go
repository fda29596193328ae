// Command started says how the entry point of package dormant has started it: with how
// many processors, and with which arguments and environment.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/govirtiofs/govirtiofs/internal/dormant"
)

func main() {
	started := runtime.GOMAXPROCS(0)
	fmt.Println(started, dormant.Processors(), dormant.Processors())
	fmt.Printf("%q\n%q\n", os.Args[1:], os.Environ())
}
