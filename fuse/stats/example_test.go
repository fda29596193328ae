package stats_test

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fuse/stats"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// A Handler that counts goes around any other Handler. The transport gets the outer one. Here
// the request is made by hand. It is refused because there was no INIT before it.
func ExampleNew() {
	counted := stats.New(server.New(server.NotImplemented{}, server.Options{}))
	ended := make(chan struct{})
	go func() { // a Thread keeps its goroutine's operating system thread
		defer close(ended)
		thread, err := counted.StartThread(fuse.Hooks{})
		if err != nil {
			panic(err)
		}
		defer thread.Stop()
		header := fp.InHeader{Len: uint32(fp.Size[fp.InHeader]()), Opcode: uint32(fp.OpStatfs), Unique: 2, NodeID: fp.RootID}
		var m fuse.Message
		m.Set(fuse.Over(fp.Bytes(&header)), fuse.Over(make([]byte, 256)))
		reply, _ := thread.Handle(&m)
		fmt.Println(reply.Len, "bytes:", reply.Errno)
	}()
	<-ended
	c := counted.Counts()[fp.OpStatfs]
	fmt.Printf("STATFS: %d requests, %d errors\n", c.Requests, c.Errors)
	// Output:
	// 16 bytes: invalid argument
	// STATFS: 1 requests, 1 errors
}
