package passthrough

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestSearch: a file that the host renames between LOOKUP and OPEN is the one that is
// opened, and not what has its name then.
func TestSearch(t *testing.T) {
	for _, mode := range []FileHandles{HandlesNever, HandlesPrefer} {
		g := newShare(t, func(c *Config) { c.FileHandles = mode }, 0).guest()
		for i := range 3000 {
			g.write(fmt.Sprint("filler", i), "")
		}
		g.write("a", "first")
		g.write("b", "second")
		g.mkdirs("dir", "elsewhere")
		a, b := g.lookup(fp.RootID, "a"), g.lookup(fp.RootID, "b")
		dir := g.lookup(fp.RootID, "dir")
		g.evictAll()
		g.hostRename("a", "c")
		g.hostRename("b", "a")
		g.hostRename("dir", "dir2")
		for node, want := range map[uint64]string{a: "first", b: "second"} {
			fh := g.open(node, unix.O_RDONLY)
			if got, errno := g.readAt(node, fh, 0, 10); got != want || errno != 0 {
				t.Errorf("read %q, %v, want %q", got, errno, want)
			}
			g.release(node, fh)
		}
		if _, errno := g.getattr(dir); errno != 0 {
			t.Errorf("directory: %v", errno)
		}
		g.evictAll()
		before := countCalls(func() { g.use(a) })
		if before > 3 { // it was noted where it is
			t.Errorf("%d calls to find a file that was found before", before)
		}
		gone := g.lookup(fp.RootID, "filler7")
		if err := os.Remove(g.path("filler7")); err != nil {
			t.Fatal(err)
		}
		_, errno := g.tryOpen(gone, unix.O_RDONLY)
		wantErrno(t, "open of a file that is gone", errno, unix.ESTALE)
		g.fs.Destroy()
	}
}

// TestOpenDuringRenames: the host exchanges two files all the time.
func TestOpenDuringRenames(t *testing.T) {
	s := newShare(t, nil, 0)
	s.write("a", "first")
	s.write("b", "second")
	exchange := func() {
		if err := unix.Renameat2(unix.AT_FDCWD, s.path("a"), unix.AT_FDCWD, s.path("b"), unix.RENAME_EXCHANGE); err != nil {
			t.Error(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				exchange()
			}
		}
	})
	wg.Go(func() {
		defer close(stop)
		g := s.guest()
		stale := 0
		for range 2000 {
			var e fp.EntryOut
			wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("a"), &e), 0)
			exchange()
			out, errno := g.tryOpen(e.NodeID, unix.O_RDONLY)
			if errno == unix.ESTALE {
				stale++
				g.fs.Forget(nil, e.NodeID, 1)
				continue
			}
			wantErrno(t, "open", errno, 0)
			want := map[uint64]string{5: "first", 6: "second"}[e.Attr.Size]
			if got, errno := g.readAt(e.NodeID, out.Fh, 0, 10); got != want || errno != 0 {
				t.Errorf("read %q, %v, want %q", got, errno, want)
			}
			g.release(e.NodeID, out.Fh)
			g.fs.Forget(nil, e.NodeID, 1) // else it has a descriptor the next time
		}
		t.Logf("%d of 2000 opens: ESTALE", stale)
		// Each had some tries, with renames all the time.
		if stale > 200 {
			t.Errorf("%d of 2000 opens: ESTALE", stale)
		}
	})
	wg.Wait()
}
