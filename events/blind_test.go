package events_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestBlind: when the host can't be watched for a while, what has changed meanwhile is told by the next helper that can be
// served, and until then the guest keeps names for a second only.
func TestBlind(t *testing.T) {
	for _, how := range []string{"no watcher for a helper", "the watcher fails"} {
		t.Run(how, func(t *testing.T) {
			g, log := impatient(t, time.Minute)
			g.host(": >file; : >victim")
			g.help()
			g.read()
			if g.kept("victim") <= 1 {
				t.Fatal("short times while all is told")
			}
			dir, _ := g.lookup(1, fp.RootID, wire.Dir)
			file, _ := g.lookup(1, dir.NodeID, wire.File)
			if how == "the watcher fails" {
				g.fs.FailWatcher()
			} else {
				g.fs.SetWatchError(errors.New("a test: too many descriptors"))
				g.release(file.NodeID)
				g.open()
				if _, errno := g.lookup(helperPID, dir.NodeID, g.read()[0].Path); errno != unix.ENOENT {
					t.Fatal(errno)
				}
			}
			eventually(t, "the log says so", func() bool { return log.Count("can't be watched") > 0 })
			if s := g.kept("file"); s != 1 {
				t.Errorf("kept for %d s", s)
			}
			g.host("rm victim")
			g.fs.SetWatchError(nil)
			g.release(file.NodeID) // the helper tries again
			g.open()
			g.sayHello()
			if r := g.until(wire.Remove); r.Path != "victim" {
				t.Errorf("%+v", r)
			}
		})
	}
}
