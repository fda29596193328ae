package clientmodel

import (
	"testing"
	"time"
)

// TestLinear: the checker finds the order of what was under way at the same time, and that there is none.
func TestLinear(t *testing.T) {
	// take is a request that takes the only one of something; the state is how many are left.
	take := func(got bool) *operation[int] {
		return &operation[int]{step: func(left int) []int {
			switch {
			case got && left > 0:
				return []int{left - 1}
			case !got && left == 0:
				return []int{left}
			}
			return nil
		}}
	}
	a, b, c := take(true), take(false), take(true)
	for name, x := range map[string]struct {
		order []*operation[int] // each twice: call and end
		ok    bool
	}{
		"refused at the same time":  {[]*operation[int]{b, a, b, a}, true},
		"refused before":            {[]*operation[int]{b, b, a, a}, false},
		"refused after":             {[]*operation[int]{a, a, b, b}, true},
		"both have got it":          {[]*operation[int]{a, c, a, c}, false},
		"both have got it in order": {[]*operation[int]{a, a, c, c}, false},
	} {
		var h history[int]
		called := map[*operation[int]]bool{}
		for _, o := range x.order {
			if called[o] {
				h.end(o)
			} else {
				h.call(o)
			}
			called[o] = true
		}
		ends, err := h.check(1)
		if (err == nil) != x.ok || x.ok && (len(ends) != 1 || !ends[0]) {
			t.Errorf("%s: %v, ends %v", name, err, ends)
		}
	}
}

// TestLinearMany: many requests at the same time that commute take the checker little time.
func TestLinearMany(t *testing.T) {
	var h history[int]
	begun := time.Now()
	for range 200 {
		var all []*operation[int]
		for range 8 {
			o := &operation[int]{step: func(n int) []int { return []int{n + 1} }}
			all = append(all, o)
			h.call(o)
		}
		for _, o := range all {
			h.end(o)
		}
	}
	ends, err := h.check(0)
	if err != nil || !ends[1600] {
		t.Errorf("%v, ends %v", err, ends)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
