package clientmodel

import (
	"fmt"
	"slices"
	"strings"
)

// A history is linearizable if each operation can have happened at one moment between its call and its return, such that all
// replies are those of a model which carries them out one after the other. The checker goes through the calls and returns in
// their order, and keeps all states that the object can be in, each with the operations under way that have happened in it.

// operation is one request to an object: step gives the states after it if its reply is right in a state, and none otherwise.
type operation[S comparable] struct {
	about string
	step  func(s S) []S
}

// history is the calls and returns of operations on one object. Its caller has a lock.
type history[S comparable] struct {
	events []event[S]
}

type event[S comparable] struct {
	op  *operation[S]
	end bool
}

// call notes that o is about to be sent; its step is set before check.
func (h *history[S]) call(o *operation[S]) { h.events = append(h.events, event[S]{op: o}) }

// end notes that o was answered.
func (h *history[S]) end(o *operation[S]) { h.events = append(h.events, event[S]{op: o, end: true}) }

// configuration is a state, and which of the operations under way have happened: bits of their places.
type configuration[S comparable] struct {
	state S
	had   uint64
}

// check goes from the state s through the history, and returns the states in which it can end. All operations must have ended. At
// most 64 are under way at the same time.
func (h *history[S]) check(s S) (map[S]bool, error) {
	all := map[configuration[S]]bool{{state: s}: true}
	var places [64]*operation[S]
	for i, e := range h.events {
		at := slices.Index(places[:], e.op)
		if !e.end {
			places[slices.Index(places[:], nil)] = e.op
			continue
		}
		next := map[configuration[S]]bool{}
		tried := map[configuration[S]]bool{}
		for c := range all {
			reach(c, &places, at, tried, next)
		}
		if len(next) == 0 {
			return nil, h.explain(i, all)
		}
		all, places[at] = next, nil
	}
	ends := map[S]bool{}
	for c := range all {
		ends[c.state] = true
	}
	return ends, nil
}

// reach adds to next the configurations that c can become in which the operation at a place has happened, without its bit.
func reach[S comparable](c configuration[S], places *[64]*operation[S], at int, tried, next map[configuration[S]]bool) {
	if tried[c] {
		return
	}
	tried[c] = true
	if c.had&(1<<at) != 0 {
		c.had &^= 1 << at
		next[c] = true
		return
	}
	for i, o := range places {
		if o == nil || c.had&(1<<i) != 0 {
			continue
		}
		for _, s := range o.step(c.state) {
			reach(configuration[S]{s, c.had | 1<<i}, places, at, tried, next)
		}
	}
}

// explainedEvents is how much of a history an error has.
const explainedEvents = 60

func (h *history[S]) explain(i int, all map[configuration[S]]bool) error {
	var b strings.Builder
	for _, e := range h.events[max(0, i-explainedEvents) : i+1] {
		word := "call"
		if e.end {
			word = "end "
		}
		fmt.Fprintf(&b, "\n\t%s %s", word, e.op.about)
	}
	n := 0
	for c := range all {
		if n++; n < 9 {
			fmt.Fprintf(&b, "\n\tbefore: %v", c.state)
		}
	}
	return fmt.Errorf("the last reply is not possible in any order of what was under way:%s", b.String())
}
