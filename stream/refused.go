package stream

import (
	"fmt"
	"sync"
	"time"
)

const (
	// equalTime is how long the log does not repeat why connections are refused: a guest tries again several times
	// in a second.
	equalTime = time.Minute
	// maxEqual is how many reasons are known. Guests choose parts of some.
	maxEqual = 16
)

// refusals counts refusals with the same reason. The zero value is ready.
type refusals struct {
	mu     sync.Mutex // guards the following; a leaf
	recent []refusal  // the oldest first
}

type refusal struct {
	text  string
	told  time.Time
	equal int // untold ones since
}

// tell counts a refusal, and reports whether the log is to say it. more is what to say of those that it has not said.
func (r *refusals) tell(text string, now time.Time) (more string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.recent {
		e := &r.recent[i]
		if e.text != text {
			continue
		}
		if now.Sub(e.told) < equalTime {
			e.equal++
			return "", false
		}
		if e.equal > 0 {
			more = fmt.Sprintf("; equal ones since the last such line: %d", e.equal)
		}
		e.told, e.equal = now, 0
		return more, true
	}
	if len(r.recent) == maxEqual {
		r.recent = r.recent[1:]
	}
	r.recent = append(r.recent, refusal{text: text, told: now})
	return "", true
}
