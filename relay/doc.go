// Package relay serves the file system of an unmodified FUSE program as a share. For the program it seems to be
// mounted: its /dev/fuse is one end of a socket pair, and the relay at the other end sends requests as a kernel would.
//
// New makes an FS, which is a server.FileSystem: server.New serves it to virtqueues, /dev/fuse or byte streams.
//
// # Firewall
//
// A FUSE program trusts its kernel. Many programs use addresses of their heap as node ids and fh. A client of the relay
// may be hostile, so the relay checks everything that it sends. The client gets the relay's own numbers for nodes, open files
// and positions in directories; tables translate these to the program's numbers. Lookup counts are clamped, sizes are
// bounded, and process ids are 0.
//
// The program is not trusted either. Each reply is checked against its request: its length, kinds of files, names,
// sizes. A wrong reply costs only its request, which gets EIO.
//
// # Waits
//
// Every method waits for the program, and holds no thread meanwhile. One goroutine receives replies, on a thread of its own. Requests
// are sent without waiting: if the socket has no room for a request, it is queued. The server counts these requests.
//
// GETATTR, LOOKUP, READ and WRITE take no goroutine either, as long as the program runs and its socket has room (server.Request.Park): the
// transport's thread sends them, and the receiving goroutine answers the client. With /dev/fuse one request costs only four system calls:
// two there, and two on the program's socket. Other requests, and all requests when there is a time limit, wait on a goroutine (server.WouldBlockInGo).
//
// # Locks
//
// From the outside in: listing.mu or file.mu, FS.mu, link.mu, link.io. None is held where the receiving goroutine finishes a request. teller.mu is held alone. The table of nodes locks its own below FS.mu, and
// calls back without them.
package relay
