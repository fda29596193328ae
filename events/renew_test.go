package events_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// marks is how many directories the kernel watches for this process, in all its fanotify groups.
func marks(t testing.TB) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == "anon_inode:[fanotify]" {
			b, _ := os.ReadFile("/proc/self/fdinfo/" + e.Name())
			n += strings.Count(string(b), "fanotify ino:")
		}
	}
	return n
}

// TestForgottenDirectories: a guest that looks up and forgets directory after directory does not make the
// kernel keep something of each, and those that it has are watched all the time.
func TestForgottenDirectories(t *testing.T) {
	const most, dirs = 8, 100
	g := newGuestWith(t, events.Options{MaxDirectories: most})
	g.host(fmt.Sprintf("mkdir kept; for i in $(seq %d); do mkdir d$i; done", dirs))
	g.help()
	if _, errno := g.lookup(1, fp.RootID, "kept"); errno != 0 {
		t.Fatal(errno)
	}
	for i := range dirs {
		d, errno := g.lookup(1, fp.RootID, fmt.Sprintf("d%d", i+1))
		if errno != 0 {
			t.Fatal(errno)
		}
		g.fs.Forget(nil, d.NodeID, 1)
		if i%10 == 9 {
			g.host(fmt.Sprintf(": >kept/f%d", i))
			for r := g.until(wire.Make); r.Path != fmt.Sprintf("kept/f%d", i); r = g.until(wire.Make) {
				g.acked++
			}
			eventually(t, "few directories in the kernel", func() bool { return marks(t) <= 3*(most+1) })
			if err := os.Remove(filepath.Join(g.dir, fmt.Sprintf("kept/f%d", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNoEviction: as long as the guest may keep something of a directory that is watched, no other one takes
// its place; then it may.
func TestNoEviction(t *testing.T) {
	const most, lease = 4, 6
	g := newGuestWith(t, events.Options{MaxDirectories: most})
	g.fs.SetLease(lease * time.Second)
	g.host("for i in 1 2 3 4 5 6; do mkdir d$i; : >d$i/f; done")
	g.help()
	g.read()
	ids := map[int]uint64{}
	kept := func(i int) uint64 {
		t.Helper()
		if ids[i] == 0 {
			d, errno := g.lookup(1, fp.RootID, fmt.Sprintf("d%d", i))
			if errno != 0 {
				t.Fatal(errno)
			}
			ids[i] = d.NodeID
		}
		e, errno := g.lookup(1, ids[i], "f")
		if errno != 0 {
			t.Fatal(errno)
		}
		return e.EntryValid
	}
	for i := 1; i < most; i++ { // the root is one, too
		if s := kept(i); s != lease {
			t.Fatalf("%d s in d%d", s, i)
		}
	}
	for range 2 {
		if s := kept(5); s != 1 {
			t.Errorf("%d s in a directory that is one too many", s)
		}
	}
	g.host("echo new >d1/f")
	if r := g.until(wire.Close); r.Path != "d1/f" {
		t.Errorf("%+v", r)
	}
	g.acked++
	eventually(t, "another directory in the place of one of which nothing is kept", func() bool {
		g.readNow()
		return kept(6) == lease
	})
}

// TestCosts: what stands around the file system allocates nothing for a request, with a helper or without, once its
// directory is watched.
func TestCosts(t *testing.T) {
	g := newGuest(t)
	g.host(": >file; mkdir dir")
	f, errno := g.lookup(1, fp.RootID, "file")
	if errno != 0 {
		t.Fatal(errno)
	}
	name, r := nul("file"), g.request(1, 0)
	requests := func(fs server.FileSystem) float64 {
		return testing.AllocsPerRun(100, func() {
			var entry fp.EntryOut
			var attr fp.AttrOut
			r.Header.NodeID = fp.RootID
			if errno := fs.Lookup(r, name, &entry); errno != 0 {
				t.Error(errno)
			}
			r.Header.NodeID = f.NodeID
			if errno := fs.Getattr(r, &fp.GetattrIn{}, &attr); errno != 0 {
				t.Error(errno)
			}
			fs.Forget(nil, f.NodeID, 1)
		})
	}
	want := requests(g.fs.Share)
	if got := requests(g.fs); got > want {
		t.Errorf("without a helper %v allocations, %v with nothing around it", got, want)
	}
	g.help()
	g.read() // nothing else runs now
	if got := requests(g.fs); got > want {
		t.Errorf("with a helper %v allocations, %v with nothing around it", got, want)
	}
}
