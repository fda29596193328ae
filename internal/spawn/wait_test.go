package spawn

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestUntilEnded: waiting for processes needs no threads.
func TestUntilEnded(t *testing.T) {
	const children = 40
	var stdin []io.Closer
	states := make(chan *os.ProcessState, children)
	before := threads(t)
	for range children {
		cmd := exec.Command("sh", "-c", "read x; exit 7")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		stdin = append(stdin, in)
		go func() {
			UntilEnded(cmd.Process)
			state, err := cmd.Process.Wait()
			if err != nil {
				t.Error(err)
			}
			states <- state
		}()
	}
	for deadline := time.Now().Add(60 * time.Second); waiting() < children; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait for a descriptor, want %d", waiting(), children)
		}
	}
	if n := threads(t) - before; n > children*3/4 { // the runtime starts some for itself
		t.Errorf("%d threads more for %d processes", n, children)
	}
	for _, in := range stdin {
		in.Close()
	}
	for range children {
		select {
		case state := <-states:
			if state.ExitCode() != 7 {
				t.Errorf("status %v, want 7", state)
			}
		case <-time.After(60 * time.Second):
			t.Fatal("a process has ended and UntilEnded does not return")
		}
	}
}

// waiting is how many goroutines are in untilReadable, asleep.
func waiting() (n int) {
	stacks := make([]byte, 1<<20)
	for _, s := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(s, "[IO wait") && strings.Contains(s, "spawn.untilReadable") {
			n++
		}
	}
	return n
}

func threads(t *testing.T) int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}
