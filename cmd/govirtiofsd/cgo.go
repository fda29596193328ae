//go:build cgo

package main

// builtWithCgo says that the C library has threads of its own. System calls can't be
// made on all of them in a process namespace, so the namespace sandbox is refused.
const builtWithCgo = true
