package events_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/server"
)

// impatient is a guest whose helper is late soon.
func impatient(t testing.TB, patience time.Duration) (*guest, *daemontest.Log) {
	log := &daemontest.Log{}
	return newGuestWith(t, events.Options{Patience: patience, Log: slog.New(slog.NewTextHandler(log, nil))}), log
}

// kept is for how long, in seconds, the guest may keep a name.
func (g *guest) kept(name string) uint64 {
	g.t.Helper()
	e, errno := g.lookup(1, fp.RootID, name)
	if errno != 0 {
		g.t.Fatal(errno)
	}
	return e.EntryValid
}

// openControl is an OPEN of the control file.
func (g *guest) openControl() (fh uint64, errno unix.Errno) {
	g.t.Helper()
	dir, _ := g.lookup(1, fp.RootID, wire.Dir)
	file, _ := g.lookup(1, dir.NodeID, wire.File)
	var out fp.OpenOut
	errno = g.fs.Open(g.request(helperPID, file.NodeID), &fp.OpenIn{}, &out)
	return out.Fh, errno
}

// TestSilentHelper: a process that has the channel open and says nothing makes room for a helper, whether or not
// it has introduced itself, and what it did with its number ends nothing later.
func TestSilentHelper(t *testing.T) {
	for _, introduced := range []bool{false, true} {
		t.Run(fmt.Sprint(introduced), func(t *testing.T) {
			g, log := impatient(t, 4*time.Second)
			if introduced {
				g.help()
			} else {
				g.open()
				g.read() // the secret: that alone says nothing
			}
			silent := g.fh
			if _, errno := g.openControl(); errno != unix.EBUSY {
				t.Fatalf("a second helper at once: %v", errno)
			}
			eventually(t, "a second helper", func() bool {
				if !introduced {
					g.readNow()
				}
				fh, errno := g.openControl()
				if errno == 0 {
					g.fh, g.acked = fh, 0
				}
				return errno == 0
			})
			if log.Count("silent for too long") == 0 {
				t.Error("the log does not say so")
			}
			g.introduce()
			if errno := g.fs.Release(g.request(1, 0xffffffff<<32|2), &fp.ReleaseIn{Fh: silent}); errno != 0 {
				t.Error(errno)
			}
			g.host(": >x")
			if r := g.until(wire.Make); r.Path != "x" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestLateHelper: a helper that does not do what it was told, as that of a guest that is paused, makes the guest keep
// names for a second only, though nothing else happens; one that has caught up is trusted again.
func TestLateHelper(t *testing.T) {
	g, log := impatient(t, 200*time.Millisecond)
	g.host(": >file")
	g.help()
	g.read()
	if s := g.kept("file"); s != uint64(events.Lease/time.Second) {
		t.Fatalf("%d s with a helper", s)
	}
	g.host(": >one")
	eventually(t, "a second only", func() bool { return g.kept("file") == 1 })
	eventually(t, "the log says so", func() bool { return log.Count("is behind") > 0 })
	g.until(wire.Close)
	g.acked++
	eventually(t, "trusted again", func() bool { g.readNow(); return g.kept("file") > 1 })
	eventually(t, "the log says so", func() bool { return log.Count("has caught up") > 0 })
}

// TestUnsupported: where the host can't be watched the helper is told so, once in the log, and the guest keeps names for
// a second only.
func TestUnsupported(t *testing.T) {
	g, log := impatient(t, time.Minute)
	g.fs.SetUnsupported()
	g.host(": >file")
	g.open()
	hello := g.read()
	dir, _ := g.lookup(1, fp.RootID, wire.Dir)
	if _, errno := g.lookup(helperPID, dir.NodeID, hello[0].Path); errno != unix.ENOENT {
		t.Fatal(errno)
	}
	if _, errno := g.openControl(); errno != unix.EOPNOTSUPP {
		t.Errorf("the helper opens the file again: %v", errno)
	}
	if log.Count("can't be watched") == 0 || g.kept("file") != 1 {
		t.Errorf("kept for %d s, log: %v", g.kept("file"), log.String())
	}
}

// TestNextGuest: a front-end that connects when the last one has gone without a word gets a helper of its own, and what the
// last one was to do is no phantom any more.
func TestNextGuest(t *testing.T) {
	for _, with := range []string{"DESTROY", "INIT only"} {
		t.Run(with, func(t *testing.T) {
			g := newGuest(t)
			g.host(": >file; : >victim")
			g.help()
			g.host("rm file")
			if r := g.until(wire.Remove); r.Path != "file" {
				t.Fatalf("%+v", r)
			}
			g.host(": >file")
			old := g.fh
			if with == "DESTROY" {
				g.fs.Destroy()
			}
			if errno := g.fs.Init(&server.InitParams{}); errno != 0 {
				t.Fatal(errno)
			}
			if errno := g.fs.Unlink(g.request(helperPID, fp.RootID), nul("file")); errno != 0 || g.exists("file") {
				t.Errorf("an unlink of a thread with the number of the last helper: %v, the file exists: %v", errno, g.exists("file"))
			}
			g.acked = 0
			g.help()
			if g.fh == old {
				t.Error("the open file has the number of the last one")
			}
			g.host("rm victim")
			if r := g.until(wire.Remove); r.Path != "victim" {
				t.Errorf("%+v", r)
			}
		})
	}
}
