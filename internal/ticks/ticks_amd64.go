package ticks

// Now is the processor's counter. It may be another one, with another value, on each processor of a machine.
//
//go:noescape
func Now() uint64

// Millisecond is how many ticks are a millisecond at most: all processors have a clock of 1 GHz or more. It is a
// third or a quarter of a millisecond on most.
func Millisecond() uint64 { return 1_000_000 }
