package tasks

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	zeros := strings.Repeat(" 0", fieldExit-fieldThreads-1)
	for text, want := range map[string]Stat{
		"7 (a) b) R (c) D 12 1 1 0 -1 1077936132 0 0 0 0 0 0 0 0 20 0 5 " + zeros + " 9\n": {State: 'D', Parent: 12, Flags: 1077936132, Threads: 5, Exit: 9},
		"7 (sh) Z 12": {State: 'Z', Parent: 12},
		"7 (sh) S x":  {State: 'S'},
	} {
		if got, ok := ParseStat([]byte(text)); got != want || !ok {
			t.Errorf("%q: %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "7", "7 (sh)", "7 (sh", "7 (sh) "} {
		if s, ok := ParseStat([]byte(text)); ok {
			t.Errorf("%q: %+v", text, s)
		}
	}
}

// TestStatOf: what the kernel says of a child while it waits, and when it has been killed.
func TestStatOf(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	until := func(what string, is func(s Stat) bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
			s, ok := StatOf(pid)
			if ok && is(s) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, %v", what, s, ok)
			}
		}
	}
	until("it sleeps", func(s Stat) bool {
		return s.State == 'S' && s.Parent == os.Getpid() && s.Threads == 1 && s.Exit == 0 && !s.Exiting()
	})
	if all := Descendants(os.Getpid()); !slices.Contains(all, pid) || slices.Contains(all, os.Getpid()) {
		t.Errorf("descendants %d, without %d", all, pid)
	}
	_ = cmd.Process.Kill()
	until("it is dead", func(s Stat) bool { return s.State == 'Z' && s.Exiting() && s.Exit == uint32(unix.SIGKILL) })
	_ = cmd.Wait()
	if s, ok := StatOf(pid); ok && s.Parent == os.Getpid() {
		t.Errorf("it was reaped, but is %+v", s)
	}
}
