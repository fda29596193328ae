package e2e

import (
	"runtime"
	"testing"
)

// TestIdleShares: shares that no front-end uses are cheap, so that one process can have
// hundreds of them.
func TestIdleShares(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's allocator is another")
	}
	const shares, most = 100, 15 << 20
	dir := t.TempDir()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what finalizers and pools have kept
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	devices := make([]any, shares)
	for i := range devices {
		devices[i], _ = newDevice(t, dir, defaults(), 1)
	}
	took := heap() - before
	t.Logf("%d file systems and devices take %d KiB of heap", shares, took>>10)
	if took > most {
		t.Errorf("%d file systems and devices take %d KiB of heap, want at most %d", shares, took>>10, most>>10)
	}
	runtime.KeepAlive(devices)
}
