//go:build cgo

package main

// builtWithCgo says that threads may be the C library's. To make a system call on all
// of them takes /proc (package psx), which is out of sight in a sandbox.
const builtWithCgo = true
