package stream

import (
	"fmt"
	"testing"
	"time"
)

// TestRefusals: equal refusals are said once in a minute, with their number, and only so many reasons are kept.
func TestRefusals(t *testing.T) {
	var r refusals
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		text string
		past time.Duration
		more string
		ok   bool
	}{
		{"a", 0, "", true},
		{"a", time.Second, "", false},
		{"b", time.Second, "", true},
		{"a", equalTime - time.Second, "", false},
		{"a", equalTime, "; equal ones since the last such line: 2", true},
		{"a", equalTime + time.Second, "", false},
		{"a", 3 * equalTime, "; equal ones since the last such line: 1", true},
		{"a", 5 * equalTime, "", true},
	} {
		if more, ok := r.tell(c.text, now.Add(c.past)); more != c.more || ok != c.ok {
			t.Errorf("%d: %q, %v, want %q, %v", i, more, ok, c.more, c.ok)
		}
	}
	for i := range 1000 {
		if _, ok := r.tell(fmt.Sprint(i), now); !ok {
			t.Errorf("the new reason %d is not said", i)
		}
	}
	if len(r.recent) != maxEqual {
		t.Errorf("%d reasons are kept, want %d", len(r.recent), maxEqual)
	}
}
