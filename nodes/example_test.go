package nodes_test

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
)

// A node of an archive: its key is the entry's number there.
type node struct {
	nodes.Node[int, node]
	size int
}

// A file system finds files by their keys, and the client names them by numbers.
func ExampleTable() {
	table := nodes.New[int, node](nodes.Config[int, node]{
		Gone: func(n *node) { fmt.Println("entry", n.Key(), "is gone") },
	})
	root := table.Intern(nil, 0, nil, func() *node { return new(node) })

	// LOOKUP: the client gets the id, and the node a lookup count.
	hello := table.Intern(nil, 7, nil, func() *node { return &node{size: 5} })
	table.Place(hello, root, fuseproto.Name("hello\x00"))
	id := hello.ID()
	table.Release(hello)

	// A request with that id.
	if n := table.Acquire(id); n != nil {
		parent, name := table.Location(n)
		fmt.Printf("%s in node %d has %d bytes\n", name, parent.ID(), n.size)
		table.Release(parent)
		table.Release(n)
	}

	// FORGET.
	if n := table.Acquire(id); n != nil {
		table.Forget(nil, n, 1)
		table.Release(n)
	}
	fmt.Println("known:", table.Acquire(id) != nil)
	// Output:
	// hello in node 1 has 5 bytes
	// entry 7 is gone
	// known: false
}

// An open file of a file system.
type openFile struct {
	nodes.OpenFile
	node *node
}

// RELEASE may come while another thread reads: the file is closed when both have ended.
func ExampleOpenFiles() {
	files := nodes.NewOpenFiles[openFile](nodes.OpenConfig[openFile]{
		Gone: func(*openFile) { fmt.Println("closed") },
	})
	fh := files.Add(nil, &openFile{node: new(node)})

	read := files.Acquire(fh) // READ

	if f := files.Acquire(fh); f != nil { // RELEASE
		files.Close(f)
		files.Release(f)
	}
	fmt.Println("found:", files.Acquire(fh) != nil)
	files.Release(read)
	// Output:
	// found: false
	// closed
}

// recorder prints the changes, which a ledger would store.
type recorder struct{}

func (recorder) Added(_ *fuse.Cell, n *node, lookups uint64) bool {
	fmt.Printf("node %d: entry %d, count %d\n", n.ID(), n.Key(), lookups)
	return true
}

func (recorder) Granted(_ *fuse.Cell, id, lookups uint64) bool {
	fmt.Printf("node %d: count %d\n", id, lookups)
	return true
}

func (recorder) Counted(_ *fuse.Cell, n *node, lookups uint64) {
	fmt.Printf("node %d: count %d\n", n.ID(), lookups)
}

func (recorder) Placed(n *node) {
	if n.Parent() == nil {
		fmt.Printf("node %d: no name\n", n.ID())
		return
	}
	fmt.Printf("node %d: %s in node %d\n", n.ID(), n.Name(), n.Parent().ID())
}
func (recorder) Forgotten(_ *fuse.Cell, n *node) { fmt.Printf("node %d: forgotten\n", n.ID()) }
func (recorder) Unkeyed(n *node)                 { fmt.Printf("node %d: no key\n", n.ID()) }
func (recorder) Gone(n *node)                    { fmt.Printf("node %d: gone\n", n.ID()) }

// A recorder is told of every change, so its ledger has what the client knows.
func ExampleRecorder() {
	table := nodes.New[int, node](nodes.Config[int, node]{Recorder: recorder{}})
	root := table.Intern(nil, 0, nil, func() *node { return new(node) })
	for range 2 {
		n := table.Intern(nil, 7, nil, func() *node { return new(node) })
		table.Place(n, root, fuseproto.Name("hello\x00"))
		table.Release(n)
	}
	if n := table.Acquire(2); n != nil {
		table.Displace(n) // UNLINK
		table.Forget(nil, n, 2)
		table.Release(n)
	}
	// Output:
	// node 1: entry 0, count 1
	// node 2: entry 7, count 1
	// node 2: hello in node 1
	// node 2: count 2
	// node 2: no name
	// node 2: forgotten
	// node 2: gone
}
