package vfs

import (
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestWakes: however often a client polls an open file, its Poller keeps one wake for each event at most, and there is
// one as long as somebody waits.
func TestWakes(t *testing.T) {
	var w wakes
	var kept []func()
	ask := func(events uint32) {
		if wake, _ := w.next(&FS{}, &fp.PollIn{Kh: 1, Events: events}); wake != nil {
			kept = append(kept, wake)
		}
	}
	const out = 1 << 2
	for range 1000 {
		ask(0)
		for bit := range 32 {
			if bit == 2 {
				continue
			}
			ask(1 << bit)
			if wake, events := w.next(&FS{}, &fp.PollIn{Kh: 1, Events: 1<<bit | out}); wake != nil {
				w.unused(&FS{}, 1, events) // the file is always ready for that one
			}
		}
	}
	ask(^uint32(0))
	if len(kept) > 33 {
		t.Errorf("%d wakes are kept", len(kept))
	}
	for _, wake := range kept {
		wake()
	}
	kept = nil
	if ask(5); len(kept) != 1 {
		t.Error("no wake after all were called")
	}
	ask(1)
	w.unused(&FS{}, 1, 5) // the first request has found the file ready
	if ask(4); len(kept) != 2 || w.shared != 0 {
		t.Error("no wake after one was not kept")
	}
}
