package bench

import (
	"os"
	"testing"
	"time"
)

func TestSwitches(t *testing.T) {
	before, err := CountSwitches(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var after Switches
	for range 2000 { // a sleep whose thread is late for it is no switch
		time.Sleep(time.Millisecond)
		if after, err = CountSwitches(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		if after.Since(before) >= 5 {
			break
		}
	}
	if n := after.Since(before); n < 5 {
		t.Errorf("%d context switches of %d threads in 2000 sleeps", n, len(after))
	}
	if n := (Switches{"kept": 5, "new": 2}).Since(Switches{"kept": 3, "ended": 100}); n != 4 {
		t.Errorf("%d context switches, want 4", n)
	}
	if n := parseSwitches("Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"); n != 15 {
		t.Errorf("%d context switches, want 15", n)
	}
	if _, err := CountSwitches(-1); err == nil {
		t.Error("no error without a process")
	}
}
