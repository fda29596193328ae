// Package fuse is the seam between what brings FUSE requests (virtqueues, /dev/fuse) and what
// answers them (package server over a file system). A transport knows a Handler and no more; a
// Handler knows no transport.
//
// A program rarely starts here: server.New makes a Handler of a file system, and virtiofs.New
// and fusedev.Mount.Serve take one. Who counts, records or limits requests writes a Handler
// around another one; package fuse/stats is an example.
//
// Nothing here allocates: a transport has one Message for each thread, and uses it again for
// each request.
package fuse
