package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// walkFiles is the number of files in the tree of TestIntegrationWalk:
// GOVIRTIOFS_WALK, or a number that CI has the time for. For more than a million files
// set GOVIRTIOFS_WALK_DIR to a tmpfs with about 1 GB for each million; the daemon
// needs 250 MB.
func walkFiles(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("GOVIRTIOFS_WALK"))
	if err != nil {
		n = 20_000
	}
	if testing.Short() {
		t.Skip("many files")
	}
	return n
}

const (
	walkPerDir  = 25  // files in a directory
	walkContent = 100 // one file in so many has content, which is read
	walkLimit   = 700 // descriptors of the daemon
)

// makeWalk makes the tree, and returns its directories. It is used by all modes.
func makeWalk(t *testing.T, files int) (root string, dirs []string) {
	t.Helper()
	root = os.Getenv("GOVIRTIOFS_WALK_DIR")
	if root == "" {
		root = filepath.Join(guest.TempDir(t), "tree")
	}
	for i := range files {
		if i%walkPerDir == 0 {
			d := fmt.Sprintf("top%d/dir%d", len(dirs)/200, len(dirs))
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, d)
		}
		var content []byte
		if i%walkContent == 0 {
			content = []byte(fmt.Sprint("content ", i))
		}
		if err := os.WriteFile(walkPath(root, dirs, i), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, dirs
}

func walkPath(root string, dirs []string, i int) string {
	return filepath.Join(root, dirs[i/walkPerDir], fmt.Sprint("f", i))
}

// walker is a guest that sends no FORGET.
type walker struct {
	*frontend.Client
	t     *testing.T
	pid   int
	nodes []uint64          // of files, by number
	dirs  map[string]uint64 // by name
	most  int               // descriptors that the daemon had at once
}

// TestIntegrationWalk: a guest looks up all names of a tree, opens some of the files and
// forgets nothing, while the daemon may have few descriptors. Nothing fails, and the
// daemon pins no descriptors. The host renames directories that the guest knows. With
// file handles the guest still finds what is in them; without, it gets ESTALE.
func TestIntegrationWalk(t *testing.T) {
	guest.NeedRoot(t)
	files := walkFiles(t)
	root, dirs := makeWalk(t, files)
	for _, mode := range []string{"never", "prefer", "mandatory"} {
		t.Run(mode, func(t *testing.T) {
			start := time.Now()
			w := newWalker(t, root, files, mode)
			w.walk(fp.RootID, "")
			if n := len(w.dirs); n < len(dirs) {
				t.Fatalf("%d directories, want %d", n, len(dirs))
			}
			t.Logf("%d files in %v, at most %d descriptors, %s", files, time.Since(start).Round(time.Millisecond), w.most, w.memory())
			w.check(root, dirs, mode)
			if w.countFDs(); w.most > walkLimit {
				t.Errorf("%d descriptors with a limit of %d", w.most, walkLimit)
			}
		})
	}
}

func newWalker(t *testing.T, root string, files int, mode string) *walker {
	t.Helper()
	d := start(t, root, "--inode-file-handles="+mode, "--sandbox=none", "--log-level=info",
		"--rlimit-nofile="+strconv.Itoa(walkLimit), "--num-request-queues=1")
	f, err := frontend.Dial(d.Socket, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := &walker{Client: frontend.NewClient(f), t: t, pid: d.servingPID(t), nodes: make([]uint64, files), dirs: map[string]uint64{}}
	if err := w.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	return w
}

// walk lists a directory and all below it.
func (w *walker) walk(node uint64, path string) {
	w.t.Helper()
	list, err := w.ReadAll(node, true)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	for _, e := range list {
		if e.Name == "." || e.Name == ".." {
			continue
		}
		if e.Entry.NodeID == 0 {
			w.t.Fatalf("%s/%s has no attributes", path, e.Name)
		}
		if e.Entry.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			p := strings.TrimPrefix(path+"/"+e.Name, "/")
			w.dirs[p] = e.Entry.NodeID
			w.walk(e.Entry.NodeID, p)
			continue
		}
		i, err := strconv.Atoi(strings.TrimPrefix(e.Name, "f"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.nodes[i] = e.Entry.NodeID
		if i%walkContent == 0 {
			w.read(i)
		}
	}
	w.countFDs()
}

// read opens a file, compares its content and closes it.
func (w *walker) read(i int) {
	w.t.Helper()
	fh, err := w.Open(w.nodes[i], unix.O_RDONLY)
	if err != nil {
		w.t.Fatalf("open of file %d: %v", i, err)
	}
	want := ""
	if i%walkContent == 0 {
		want = fmt.Sprint("content ", i)
	}
	b, err := w.Read(w.nodes[i], fh, 0, 100)
	if err != nil || string(b) != want {
		w.t.Fatalf("read of file %d: %q, %v", i, b, err)
	}
	if err := w.Release(w.nodes[i], fh); err != nil {
		w.t.Fatal(err)
	}
}

func (w *walker) countFDs() {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.pid))
	if err != nil {
		w.t.Fatal(err)
	}
	w.most = max(w.most, len(list))
}

func (w *walker) memory() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	for _, line := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(line, "VmRSS:") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}

// check uses nodes from all over the tree, and from a directory that was renamed.
func (w *walker) check(root string, dirs []string, mode string) {
	w.t.Helper()
	// All but the first directory: its descriptor is closed meanwhile.
	for range 2000 {
		w.read(walkPerDir + rand.IntN(len(w.nodes)-walkPerDir))
	}
	moved := filepath.Join(root, dirs[0])
	away := filepath.Join(root, "moved "+mode)
	if err := os.Rename(moved, away); err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := os.Rename(away, moved); err != nil {
			w.t.Error(err)
		}
	}()
	for i := range 10 {
		_, err := w.Getattr(w.nodes[i])
		if (err == nil) != (mode != "never") || err != nil && !errors.Is(err, syscall.ESTALE) {
			w.t.Errorf("file %d in a renamed directory: %v", i, err)
		}
	}
	list, err := w.ReadAll(w.dirs[dirs[0]], false)
	if mode != "never" && (err != nil || len(list) != min(walkPerDir, len(w.nodes))+2) {
		w.t.Errorf("listing of a renamed directory: %d names, %v", len(list), err)
	}
	w.read(len(w.nodes) - 1)
}
