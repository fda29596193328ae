package server

import "testing"

// BenchmarkTurn is what the watch costs each request.
func BenchmarkTurn(b *testing.B) {
	s := New(&fakeFS{}, Options{})
	t := newThread(s)
	s.watch.asleep.Store(false)
	for b.Loop() {
		if s.watch.detour.Load() != 0 && t.detours(&ops[1]) {
			b.Fatal("a detour")
		}
		t.enter()
		t.leave()
	}
}
