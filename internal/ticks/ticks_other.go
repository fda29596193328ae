//go:build !amd64 && !arm64

package ticks

import "time"

// Now is the time of day, in nanoseconds.
func Now() uint64 { return uint64(time.Now().UnixNano()) }

// Millisecond is how many ticks are a millisecond.
func Millisecond() uint64 { return uint64(time.Millisecond) }
