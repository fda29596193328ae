// Package passthrough is a server.FileSystem over a directory tree of the host. Both
// the client and the tree are hostile: the client may send any number for any node,
// open file, offset or flag, and the tree may change at any moment, names turning into
// symbolic links and back.
//
// To start, open the directory and /proc/self/fd with O_PATH, give both to New, and the FS
// to server.New. The package needs no sandbox; package sandbox has one.
//
// # Safety of names
//
// Every call names one path component, checked by fuseproto.ParseName, in a directory
// that a descriptor stands for, and follows no symbolic link. There is no way out of
// the share, with or without a sandbox. A file is opened for I/O only through the
// O_PATH descriptor of its node, whose kind is known, by way of /proc/self/fd or by the
// file handle that this descriptor's file has.
//
// # Identity and life of a node
//
// A node is a file of the host: mount, device, inode number. Its number for the client
// is never used again. Package nodes keeps it while something refers to it:
//
//	the table       while the client's lookup count is above 0
//	a request       while it runs
//	an open file    while it is open
//	a child         while it lives, because its location is a name in its parent
//
// A node need not have a descriptor. A LOOKUP or listing (READDIRPLUS) makes nodes with one statx a
// name, and most are never used for more; only a directory is opened by its LOOKUP. A node that was
// created has the descriptor of its open file. Descriptors of nodes that were not used for some
// seconds are closed (sweep.go). When there are too many, those of nodes that no request uses are
// closed, too (evict.go). So a file that the client only remembers keeps no space and no mount of
// the host in use. Such a node is opened by its file handle when it is needed, if it has one (see
// filehandle.go), or where it was last seen. It must then be the same file, by number, time of
// birth and kind. If it is not, the client gets ESTALE and looks the name up again, as Linux does
// by itself.
//
// A node that can't be found again keeps its descriptor: a file or directory whose last name the
// client has removed, and which has no open file. The descriptor is closed when the client forgets
// the node, or when nothing else makes room. The descriptor of a nameless file that was open is
// closed with its last open file.
//
// A node without descriptor and file handle that the host has renamed is searched for in
// the directory where it was last seen (search.go). If it is not there, the client gets
// ESTALE until it looks up the new name.
//
// # Locks
//
// From the outside in; a lock is never taken while one further in is held.
//
//	sweeper.mu
//	FS.destroyExcluded
//	openless.mu              of files that are read without opening them
//	dirStream.mu
//	  shard of nodeTable        a part of the table of nodes by identity, see package nodes
//	inode.Lock                 location, file handle, open files, lock owners of a node
//	  evictor.mu → inode.Lock  of other nodes, tried and not waited for
//	    numbers of nodes and open files; leaves
//	mountInfo.mu             descriptor of a mount; a leaf
//	convertedLinks.mu        a leaf
//	lockGraph.mu, lockProbe.mu  leaves
//
// Finding a node or open file by number takes no lock.
package passthrough
