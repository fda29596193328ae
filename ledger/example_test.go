package ledger_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// A process notes a request, and dies. Its successor has the same file, and finds what had no reply.
func ExampleOpen() {
	first, err := ledger.Create()
	if err != nil {
		panic(err)
	}
	defer func() { _ = first.Close() }()
	queue, err := first.Queue(0, 128)
	if err != nil {
		panic(err)
	}
	first.Begin()
	queue.Begin(1, 0)
	queue.Cell(5).Take(&fp.InHeader{Opcode: uint32(fp.OpMkdir), Unique: 42, NodeID: 1}, queue.Order(), 0, 0)
	first.Serving()

	fd, err := unix.Dup(first.FD()) // as a keeper has it
	if err != nil {
		panic(err)
	}
	next, err := ledger.Open(fd)
	if err != nil {
		panic(err)
	}
	defer func() { _ = next.Close() }()
	if queue, err = next.Queue(0, 128); err != nil {
		panic(err)
	}
	for head, cell := range queue.Unfinished {
		fmt.Println("chain", head, cell.Opcode(), "request", cell.Unique())
	}
	// Output: chain 5 MKDIR request 42
}
