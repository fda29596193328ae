//go:build !cgo

package main

// builtWithCgo is as it should be.
const builtWithCgo = false
