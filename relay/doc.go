// Package relay serves the file system of an unmodified FUSE program as a share. The program believes that it has
// mounted: its /dev/fuse is one end of a socket pair, and the relay at the other end speaks to it as a kernel would.
//
// New makes an FS, which is a server.FileSystem: server.New serves it to virtqueues, /dev/fuse or byte streams.
//
// # Firewall
//
// A FUSE program trusts its kernel. Many use addresses of their heap as node ids and file handles. A client of the relay
// is hostile, so nothing of what it sends goes through unchecked: it gets the relay's own numbers for nodes, open files
// and positions in directories, and tables lead from these to the program's. Counts of lookups are clamped, sizes are
// bounded, process ids are 0.
//
// The program is not trusted either. Each reply is checked against what was asked: its length, kinds of files, names,
// sizes. A reply that is wrong costs its request, which gets EIO.
//
// # Waits
//
// Every method waits for the program, and holds no thread meanwhile. One goroutine receives replies, on a thread of its own. Requests
// are sent without waiting: what the socket has no room for is queued, and belongs to requests that the server counts.
//
// GETATTR, LOOKUP, READ and WRITE take no goroutine either, as long as the program runs and its socket has room (server.Request.Park): the
// transport's thread sends them, and the receiving goroutine answers the client. Four system calls are all that one costs with
// /dev/fuse: two there, and two on the program's socket. Others, and all when there is a time limit, wait on a goroutine (server.WouldBlockInGo).
//
// # Locks
//
// From the outside in: listing.mu or file.mu, FS.mu, link.mu, link.io. None is held where the receiving goroutine finishes a request. teller.mu is held alone. The table of nodes locks its own below FS.mu, and
// calls back without them.
package relay
