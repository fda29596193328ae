// Package fuse is the seam between what brings FUSE requests (virtqueues, /dev/fuse) and what
// answers them (package server over a file system). A transport knows a Handler and no more; a
// Handler knows no transport.
//
// Nothing here allocates: a transport has one Message for each thread, and uses it again for
// each request.
package fuse
