// Package nodes keeps what a FUSE client knows of a file system: nodes and open files.
// The client gets nodes from LOOKUP and open files from OPEN, and names both by their
// ids. The client is hostile: it may send any number. A number that was never given out,
// or that has ended, leads to nothing.
//
// The package knows numbers, counts and names, and no files. The rest of a node or an
// open file belongs to the file system: its type begins with [Node] or [OpenFile], and
// adds its own fields.
//
//	type node struct {
//		nodes.Node[uint64, node] // the key is the file's number in an archive
//		data []byte
//	}
//
//	table := nodes.New[uint64, node](nodes.Config[uint64, node]{})
//
// # Life of a node
//
// A node lives while something refers to it:
//
//	the table    while the client's lookup count is above 0
//	a request    while it runs: a reference
//	an open file while it is open: a hold
//	a child      while it lives, because its place is a name in its parent: a hold
//
// When the lookup count gets to 0 the client has forgotten the node, and its id leads to
// nothing. When nothing refers to it any more it is gone, and [Config].Gone is called.
// The first node is the root: its id is [fuseproto.RootID], and it is never forgotten.
//
// # Changes
//
// Every change of a node goes through a method of [Table] that calls [Config].Recorder,
// and every change of an open file through a method of [OpenFiles]. A daemon with a
// successor stores there what the successor must know. Nothing else in
// this package changes nodes and open files.
//
// # Locks
//
// From the outside in:
//
//	nodes to be made         only until those of another process are made, see Table.Restore
//	  shard of the key table lookup counts, and which node a key stands for
//	    node                 its place and file handle; the file system's own part, if it likes
//	      table of numbers   a leaf but for the recorder, which is called with these held
//
// Finding a node or an open file by its number takes no lock, and no memory. Making a node takes the first of the
// locks, and may be done with that of another node held: nobody waits for a node with a shard locked.
package nodes
