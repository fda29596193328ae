package pause

import "testing"

// TestLoop: Loop returns, also for 0 instructions.
func TestLoop(*testing.T) {
	for _, n := range []uint32{0, 1, 1000} {
		Loop(n)
	}
}
