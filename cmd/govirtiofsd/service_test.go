package main

import (
	"runtime/debug"
	"testing"
	"time"
)

// TestPauseCollector: a process with several shares takes all of them over, and collects garbage again afterwards.
func TestPauseCollector(t *testing.T) {
	const usual = 77
	defer debug.SetGCPercent(debug.SetGCPercent(usual))
	now := func() int {
		percent := debug.SetGCPercent(usual)
		debug.SetGCPercent(percent)
		return percent
	}
	p := new(process)
	for range 3 {
		p.pauseCollector(time.Hour)
		if percent := now(); percent != -1 {
			t.Fatalf("garbage is collected at %d %% while shares are taken over", percent)
		}
	}
	debug.SetGCPercent(usual)
	p = new(process)
	for range 3 {
		p.pauseCollector(time.Millisecond)
	}
	for deadline := time.Now().Add(30 * time.Second); now() != usual; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("garbage is collected at %d %% afterwards, want %d", now(), usual)
		}
	}
}
