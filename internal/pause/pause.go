//go:build amd64 || arm64

// Package pause tells the processor that a loop waits for memory to change, so that it
// leaves the core to its sibling and saves energy.
package pause

// Loop executes n pause instructions: about 40 to 140 cycles each on amd64, a few on arm64.
//
//go:noescape
func Loop(n uint32)
