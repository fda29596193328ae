// Nullfs shows a directory of this machine as it is. It is the smallest decorator, and shows what the
// way through a file system costs.
//
//	nullfs --mount=/mnt DIR
package main

import (
	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// nullFS changes nothing. A file system that changes something writes the methods for it: the
// embedded one has all others, also those beside the requests.
type nullFS struct{ server.FileSystem }

func main() {
	var always bool
	p := cli.Program{Args: "DIR", NArgs: 1,
		Flags: func(set *pflag.FlagSet) {
			set.BoolVar(&always, "cache-always", false, "nobody else changes the directory: the client may keep all")
		},
		New: func(args []string) (server.FileSystem, error) {
			cache := passthrough.CacheAuto
			if always {
				cache = passthrough.CacheAlways
			}
			inner, err := cli.HostDir(args[0], cache)
			return nullFS{inner}, err
		}}
	p.Main()
}
