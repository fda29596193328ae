package ticks

// Now is the processor's counter.
//
//go:noescape
func Now() uint64

// perSecond is how many ticks are a second.
//
//go:noescape
func perSecond() uint64

// Millisecond is how many ticks are a millisecond.
func Millisecond() uint64 { return perSecond() / 1000 }
