// Package server turns FUSE request bytes into calls of a FileSystem and its
// answers into reply bytes. It knows neither virtqueues nor files: to a transport it is a
// fuse.Handler, which gets a request as buffers to read and buffers to write.
//
// # Start
//
// Package vfs is an easier way to write a file system, and package iofs serves any fs.FS. This package
// is the protocol itself; it costs least.
//
// A file system embeds NotImplemented and has the methods that it needs. New makes a
// fuse.Handler of it, which virtiofs.New gives to guests and fusedev.Mount.Serve to this
// machine. The examples are whole file systems of less than 60 lines. Package nodes has
// the tables of nodes and open files, and package tree a file system for contents that a
// program makes up.
//
// # Life of a request
//
// Handle copies all data that a decision depends on (bodies, names, extensions) out of the
// client's buffers once, into memory of the thread, because the client can change its
// buffers at any time. The header was copied by the transport. File data is not copied: the
// FileSystem gets the client's own buffers, cut to the size that was asked for.
//
// One table, ops, says what each opcode needs. Its checks come before the method:
// length of the body, session, read-only shares, and room for the reply. So a method
// never makes a change whose result can't be sent to the client, and a lookup count or
// an open file is never lost.
//
// A method that would have to wait returns WouldBlock. The request then continues as
// a fuse.Pending on a thread that no queue depends on. After WouldBlockBriefly it
// may continue in the queue's own thread, if that has nothing else to do. A request that another process
// answers can be parked (Request.Park): no goroutine waits for it. The goroutine that receives the answer
// finishes the request.
//
// # Ownership
//
// A thread belongs to one goroutine. Arguments of methods live in it and die with
// the call. A pending request owns copies of them; the memory behind the client's buffers
// stays the transport's business.
package server
