package pause

import "testing"

// TestLoop: it ends, with no rests at all, too.
func TestLoop(*testing.T) {
	for _, n := range []uint32{0, 1, 1000} {
		Loop(n)
	}
}
