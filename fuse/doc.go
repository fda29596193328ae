// Package fuse connects the transports of FUSE requests (virtqueues, /dev/fuse, byte streams) to the
// Handler that answers them (package server over a file system). A transport knows only a Handler. A
// Handler knows no transport.
//
// A program rarely starts here: server.New makes a Handler of a file system, and virtiofs.New
// and fusedev.Mount.Serve take one. To count, record or limit requests, write a Handler
// around another one; package fuse/stats is an example.
//
// Nothing here allocates: a transport has one Message for each thread, and reuses it for
// each request.
package fuse
