package passthrough

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestOpenAgain: a file that is opened again is opened by its handle, and is the same file
// whatever has its name by then.
func TestOpenAgain(t *testing.T) {
	for _, mode := range []FileHandles{HandlesNever, HandlesPrefer, HandlesMandatory} {
		g := withHandles(t, mode, 0)
		node, fh := g.openName("f", "first", unix.O_RDONLY)
		g.release(node, fh)
		taken := map[FileHandles]int64{HandlesPrefer: 1}[mode]
		wantCalls(t, "second OPEN", 1+taken, func() { fh = g.open(node, unix.O_RDONLY) })
		g.release(node, fh)
		wantCalls(t, "third OPEN", 1, func() { fh = g.open(node, unix.O_RDONLY) })
		g.release(node, fh)

		check := func(when, want string) {
			t.Helper()
			fh := g.open(node, unix.O_RDONLY)
			if got, errno := g.readAt(node, fh, 0, 100); got != want || errno != 0 {
				t.Errorf("mode %d, %s: %q, %v; want %q", mode, when, got, errno, want)
			}
			g.release(node, fh)
		}
		g.hostRename("f", "g")
		g.write("f", "other")
		check("another file has its name", "first")
		g.release(node, g.open(node, unix.O_WRONLY|unix.O_TRUNC))
		check("it was cut off", "")
		if b, err := os.ReadFile(filepath.Join(g.dir, "f")); string(b) != "other" || err != nil {
			t.Errorf("mode %d: the other file has %q, %v", mode, b, err)
		}
		if err := os.Remove(filepath.Join(g.dir, "g")); err != nil {
			t.Fatal(err)
		}
		check("it has no name", "")
	}
}

// TestOpenAgainElsewhere: where handles do not open files, /proc/self/fd does.
func TestOpenAgainElsewhere(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	node, fh := g.openName("f", "x", unix.O_RDONLY)
	g.release(node, fh)
	root := g.fs.nodes.root
	g.fs.mounts.get(root.Key().onMount()).noOpens.Store(true)
	for range 3 {
		g.release(node, g.open(node, unix.O_RDONLY))
	}
	if n := g.fs.nodes.Get(node); n.HasFileHandle() {
		t.Error("a node has a handle that is of no use")
	}
	if _, errno := g.tryOpen(fp.RootID, unix.O_RDONLY); errno != unix.EISDIR {
		t.Errorf("OPEN of a directory: %v", errno)
	}
}
