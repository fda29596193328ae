package relay_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationBadPrograms: a program that can't be served costs one line, which says what is wrong and what to do, and exit status 1;
// nothing of it is left.
func TestIntegrationBadPrograms(t *testing.T) {
	guest.NeedRoot(t)
	for _, c := range []struct{ how, want string }{
		{"nosuch", "is the program installed?"},
		{"usage", "it has printed its usage: its arguments are wrong"},
		{"ends", "has ended with status 3 and has mounted nothing; its last words: there is no image"},
		{"twice", "mounts a second time"},
		{"minor", "speaks version 7.99 of the protocol, which is not between 7.5 and 7.45: use another version"},
	} {
		for _, where := range []string{"--socket-path", "--mount"} {
			t.Run(c.how+where, func(t *testing.T) {
				t.Parallel()
				if where == "--mount" {
					guest.NeedFUSE(t)
				}
				b := newBench(t, users[0])
				path, program := b.mkdir("mnt"), rawfuse
				if where == "--socket-path" {
					path = b.path("sock")
				}
				if c.how == "nosuch" {
					program = "no-such-program"
				}
				cmd := b.command(govirtiofs, "relay", where, path, "--", program, "{mount}", c.how)
				timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
				out, err := cmd.CombinedOutput()
				timer.Stop()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 1 {
					t.Errorf("it ends with %v, want exit status 1", err)
				}
				var lines []string
				for l := range strings.Lines(string(out)) {
					if !strings.Contains(l, " INFO ") { // what the program says itself, and that it is mounted
						lines = append(lines, l)
					}
				}
				if len(lines) != 1 || !strings.Contains(lines[0], c.want) {
					t.Errorf("it says\n%s\nwant one line with %q", out, c.want)
				}
				if left := b.programs(rawfuse); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}
