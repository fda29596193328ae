package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
)

// recoveryCosts are the system calls that a request takes more so that a successor can find out what has
// become of it, by the name of the case. All others take none.
var recoveryCosts = map[string]int{
	// Which file it is, if its node is not known by this name. A client that looks names up before it
	// removes them does not come to that. Without it a file that was made in the same tick of the
	// clock would be taken for one that somebody has made after the request, and stay.
	"unlink":                              1,
	"unlink of nothing":                   1,
	"rmdir of what is in use":             1,
	"rename of nothing":                   1,
	"rename noreplace of what is there":   1,
	"removexattr":                         1, // whether the attribute is there
	"removexattr of nothing":              1,
	"write to the end":                    1, // where the end is
	"write the same to the end once more": 1,
	"fallocate that cuts out":             1,
	"symlink given away":                  1, // which file takes its place
	"symlink given away, no O_TMPFILE":    1,
}

// TestRecoveryCalls counts the system calls of each request of TestDeaths with a ledger and
// without.
func TestRecoveryCalls(t *testing.T) {
	guestsNeedRoot(t)
	for i := range deathCases {
		c := &deathCases[i]
		t.Run(c.name, func(t *testing.T) {
			with, without := callsOf(t, c, true), callsOf(t, c, false)
			if more, want := with-without, recoveryCosts[c.name]; more != want {
				t.Errorf("%d system calls with a ledger, %d without: %d more, want %d", with, without, more, want)
			}
		})
	}
}

// callsOf serves the requests of a case, without a death, and counts the system calls of the one it
// is about.
func callsOf(t *testing.T, c *deathCase, recorded bool) (calls int) {
	var err error
	dir, b := t.TempDir(), newBoard(t)
	defer b.close()
	if c.setup != nil {
		c.setup(dir)
	}
	var l *ledger.Ledger
	var k Keeper
	if recorded {
		if l, err = ledger.Create(); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		k = newSafe(t)
	}
	done := make(chan struct{})
	go func() { // its thread ends with it
		defer close(done)
		p, err := startProcess(c, l, dir, k)
		if err != nil {
			t.Error(err)
			return
		}
		counting := false
		count := func() {
			if counting {
				calls++
			}
		}
		onCall.Store(&count)
		defer onCall.Store(nil)
		p.serve(c, b, func(step int) { counting = step == c.targetStep() })
		p.thread.Stop()
		p.fs.Destroy()
		_, _ = unix.Close(p.fs.cfg.RootFD), unix.Close(p.fs.cfg.ProcFD)
	}()
	<-done
	return calls
}
