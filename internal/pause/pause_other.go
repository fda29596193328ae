//go:build !amd64 && !arm64

// Package pause tells the processor that a loop waits for memory to change.
package pause

// Loop does nothing on this architecture.
func Loop(uint32) {}
