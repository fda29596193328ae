// Memfs is a file system in memory, as tmpfs is: what puffs had as dtfs. It has regular files (with
// holes), directories, links of both kinds, FIFOs, sockets, device nodes, extended attributes, and
// fallocate(2). It has no POSIX ACLs and no file flags (chattr).
//
//	memfs --mount=/mnt --size=1073741824
package main

import (
	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

func main() {
	var size, files int64
	var xattr, writeback bool
	p := cli.Program{
		Flags: func(set *pflag.FlagSet) {
			set.Int64Var(&size, "size", 1<<30, "`BYTES` that all files may take")
			set.Int64Var(&files, "files", 1<<20, "`NUMBER` of files that there may be")
			set.BoolVar(&xattr, "xattr", true, "have extended attributes; without them the client asks less")
			set.BoolVar(&writeback, "writeback", false, "have the client's kernel collect writes")
		},
		New: func([]string) (server.FileSystem, error) { return newFS(size, files, xattr, writeback), nil },
	}
	p.Main()
}

// newFS is a file system of at most so many bytes and files, with extended attributes or without, whose writes the client collects or not.
func newFS(size, files int64, xattr, writeback bool) *vfs.FS {
	return vfs.New(newMemory(size, files).root, vfs.Options{NonBlocking: true, KillPriv: true, Writeback: writeback, NoXattr: !xattr, EntryTimeout: hour, AttrTimeout: hour, NegativeTimeout: hour})
}
