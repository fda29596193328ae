package bench

import (
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const stat = `cpu  30 0 30 300 30 3 3 3 0 0
cpu0 10 0 10 100 10 1 2 1 0 0
cpu1 10 0 10 100 10 1 1 1 0 0
cpu10 10 0 10 200 20 1 1 1 0 0
intr 12345 1 2 3 4 5 6 7 8 9
ctxt 1
`
	got, err := parseStat(stat, func(cpu int) bool { return cpu != 1 })
	if want := (procStat{cpus: 2, idle: 330 * clockTick, irq: 5 * clockTick}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "cpu  1 2 3 4 5 6 7 8\n", "cpu1 1 2 3 4 5 6 7 8\n", "cpu0 1 2 3 x 5 6 7 8\n", "cpu0 1 2\n"} {
		if s, err := parseStat(bad, func(cpu int) bool { return cpu == 0 }); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// TestForeignShare: what is neither idle nor an interrupt nor ours is foreign; what a tick may
// hide is not.
func TestForeignShare(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1000, 0)
	from := reading{at: start, stat: procStat{cpus: 2, idle: time.Hour, irq: time.Hour}, own: time.Hour, tasks: map[int]time.Duration{7: time.Hour, 8: time.Hour}}
	for _, c := range []struct {
		what                 string
		wall, idle, irq, own time.Duration
		kernel               time.Duration // of a kernel thread
		want                 float64
	}{
		{"an idle machine", 500 * ms, 1000 * ms, 0, 0, 0, 0},
		{"only ours", 500 * ms, 300 * ms, 0, 700 * ms, 0, 0},
		{"ours and what it needs of the kernel", 500 * ms, 300 * ms, 100 * ms, 400 * ms, 200 * ms, 0},
		{"a busy loop beside it", 500 * ms, 0, 0, 490 * ms, 0, 0.5},
		{"all for others", 500 * ms, 0, 0, 0, 0, 0.99},
		{"a tick", 500 * ms, 990 * ms, 0, 0, 0, 0},
		{"clocks that disagree", 500 * ms, 900 * ms, 0, 900 * ms, 0, 0},
		{"no time", 0, 0, 0, 0, 0, 0},
	} {
		to := reading{at: start.Add(c.wall), stat: procStat{cpus: 2, idle: time.Hour + c.idle, irq: time.Hour + c.irq}, own: time.Hour + c.own,
			tasks: map[int]time.Duration{7: time.Hour + c.kernel, 9: time.Hour}} // 8 has ended, 9 is new
		if got := foreignShare(&from, &to); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// TestForeignWatch: busy loops of other programs are seen.
func TestForeignWatch(t *testing.T) {
	for range 2 * runtime.NumCPU() {
		c := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = c.Process.Kill()
			_ = c.Wait()
		}()
	}
	w, err := newForeignWatch(nil)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		if err := w.start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		share, err := w.share()
		if err != nil {
			t.Fatal(err)
		}
		if share > 0.3 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("others have %.2f of the processors' time, with two busy loops for each", share)
		}
	}
}
