// Gofusefs serves go-fuse's own example, the loopback file system, as any file system that was written for
// go-fuse v2 can be served.
//
//	gofusefs --socket-path=/run/loopback.sock DIR
package main

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/gofuse"
	"github.com/govirtiofs/govirtiofs/server"
)

func main() {
	p := cli.Program{Args: "DIR", NArgs: 1, New: func(args []string) (server.FileSystem, error) {
		root, err := fs.NewLoopbackRoot(args[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", args[0], err)
		}
		unix.Umask(0) // the client's is in the modes that it sends
		return gofuse.New(fs.NewNodeFS(root, nil), gofuse.Options{}), nil
	}}
	p.Main()
}
