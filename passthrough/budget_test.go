package passthrough

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
)

// within fails if the share has more descriptors than it may.
func (g *guest) within(what string) {
	g.t.Helper()
	if n := g.fs.fds.used.Load(); n > int64(g.fs.cfg.MaxFDs) {
		g.t.Fatalf("%s: %d descriptors with a limit of %d", what, n, g.fs.cfg.MaxFDs)
	}
}

func (g *guest) mknod(parent uint64, s string) uint64 {
	g.t.Helper()
	var out fp.EntryOut
	wantErrno(g.t, "mknod", g.fs.Mknod(g.on(parent), &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name(s), &out), 0)
	return out.NodeID
}

func (g *guest) mkdir(parent uint64, s string) uint64 {
	g.t.Helper()
	var out fp.EntryOut
	wantErrno(g.t, "mkdir", g.fs.Mkdir(g.on(parent), &fp.MkdirIn{Mode: 0o755}, name(s), &out), 0)
	return out.NodeID
}

// openAll opens a file until no more can be opened.
func (g *guest) openAll(node uint64) (open []uint64) {
	g.t.Helper()
	for range g.fs.cfg.MaxFDs + 1 {
		out, errno := g.tryOpen(node, unix.O_RDWR)
		if errno == unix.ENFILE {
			return open
		}
		wantErrno(g.t, "open", errno, 0)
		open = append(open, out.Fh)
	}
	g.t.Fatal("no limit")
	return nil
}

// TestPinsAreBounded: a client that removes names and never forgets the nodes loses the
// oldest of them, and nothing else.
func TestPinsAreBounded(t *testing.T) {
	for _, mode := range []FileHandles{HandlesNever, HandlesPrefer} {
		g := newShare(t, func(c *Config) { c.FileHandles, c.MaxFDs = mode, 64 }, fp.InitPosixLocks).guest()
		node, fh := g.openName("a", "content", unix.O_RDWR)
		var pins []uint64
		for i := range 300 {
			file := fmt.Sprint("f", i)
			pins = append(pins, g.mknod(fp.RootID, file))
			wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name(file)), 0)
			g.within("unlink")
		}
		for i := range 300 {
			dir := fmt.Sprint("d", i)
			pins = append(pins, g.mkdir(fp.RootID, dir))
			wantErrno(t, "rmdir", g.fs.Rmdir(g.on(fp.RootID), name(dir)), 0)
			g.within("rmdir")
		}
		last := pins[len(pins)-1]
		if attr, errno := g.getattr(last); errno != 0 || attr.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("the last directory removed: mode %o, %v", attr.Mode, errno)
		}
		_, errno := g.getattr(pins[0])
		wantErrno(t, "the first file removed", errno, unix.ESTALE)
		if got, errno := g.readAt(node, fh, 0, 10); got != "content" || errno != 0 {
			t.Errorf("the open file: %q, %v", got, errno)
		}
		// Open files come first: pins give way to all of them.
		if n := len(g.openAll(node)); n != 59 {
			t.Errorf("%d more files could be opened, want 59", n)
		}
		g.within("open")
		g.mkdir(fp.RootID, "last")
		g.within("mkdir")
		g.fs.Destroy()
		if n := g.fs.fds.used.Load(); n != 1 {
			t.Errorf("%d descriptors are left, want the root's", n)
		}
	}
}

// TestForgottenParents: directories that the client has forgotten, and whose files it has
// not, are no way to keep descriptors open.
func TestForgottenParents(t *testing.T) {
	g := newShare(t, func(c *Config) { c.MaxFDs = 64 }, 0).guest()
	var files []uint64
	for i := range 300 {
		d := g.mkdir(fp.RootID, fmt.Sprint("d", i))
		files = append(files, g.mknod(d, "f"))
		g.fs.Forget(nil, d, 1)
		g.within("mkdir")
	}
	for _, f := range files {
		_, errno := g.getattr(f)
		wantErrno(t, "getattr of a file in a forgotten directory", errno, 0)
		g.within("getattr")
	}
}

// TestNothingHalfDone: a request that gets ENFILE has changed nothing.
func TestNothingHalfDone(t *testing.T) {
	for _, ownership := range []Ownership{OwnershipHost, OwnershipXattr} {
		g := newShare(t, func(c *Config) { c.MaxFDs, c.Ownership, c.KillprivV2 = 64, ownership, false }, 0).guest()
		node, fh := g.openName("a", "content", unix.O_RDWR)
		open := g.openAll(node)
		var created fp.CreateOut
		wantErrno(t, "create", g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o644}, name("new"), &created), unix.ENFILE)
		if _, err := os.Lstat(g.path("new")); !os.IsNotExist(err) {
			t.Errorf("a CREATE that failed has made a file: %v", err)
		}
		wantErrno(t, "create with O_TRUNC of a file that exists", g.fs.Create(g.on(fp.RootID),
			&fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC, Mode: 0o644}, name("a"), &created), unix.ENFILE)
		_, errno := g.tryOpen(node, unix.O_RDWR|unix.O_TRUNC)
		wantErrno(t, "open with O_TRUNC", errno, unix.ENFILE)
		wantErrno(t, "tmpfile", g.fs.Tmpfile(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, &created), unix.ENFILE)
		_, errno = g.tryOpen(fp.RootID, unix.O_DIRECTORY)
		wantErrno(t, "opendir", errno, unix.ENFILE)
		if got := g.content("a"); got != "content" {
			t.Errorf("a file that could not be opened has %q now", got)
		}
		// What needs a descriptor only for itself goes on.
		g.mkdir(fp.RootID, "d")
		wantErrno(t, "rmdir", g.fs.Rmdir(g.on(fp.RootID), name("d")), 0)
		for _, fh := range append(open, fh) {
			wantErrno(t, "release", g.release(node, fh), 0)
		}
		wantErrno(t, "create", g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o644}, name("new"), &created), 0)
		g.fs.Destroy()
	}
}

// TestBudgetOfMany: several queues at the same time do not get past the limit either.
func TestBudgetOfMany(t *testing.T) {
	s := newShare(t, func(c *Config) { c.MaxFDs = 256 }, fp.InitPosixLocks)
	var wg sync.WaitGroup
	for q := range 4 {
		wg.Go(func() {
			g := s.guest()
			for i := range 200 {
				file := fmt.Sprintf("%d-%d", q, i)
				d := g.mkdir(fp.RootID, "d"+file)
				g.mknod(d, "f")
				n := g.mknod(fp.RootID, file)
				if out, errno := g.tryOpen(n, unix.O_RDWR); errno == 0 {
					lk := &fp.LkIn{Fh: out.Fh, Owner: uint64(i), Lk: fp.FileLock{Type: unix.F_WRLCK, End: 10}}
					if errno := g.fs.Setlk(g.on(n), lk, false); errno != 0 && errno != unix.ENOLCK {
						t.Errorf("lock: %v", errno)
					}
				} else if errno != unix.ENFILE {
					t.Errorf("open: %v", errno)
				}
				if errno := g.fs.Unlink(g.on(fp.RootID), name(file)); errno != 0 {
					t.Errorf("unlink: %v", errno)
				}
				// A thread that counts one too many takes it back at once.
				if n := s.fs.fds.used.Load(); n > 256+4 {
					t.Errorf("%d descriptors", n)
				}
			}
		})
	}
	wg.Wait()
}

// TestMappingsUnanswered: mappings that the front-end does not answer keep files open, and
// are within the limit like others.
func TestMappingsUnanswered(t *testing.T) {
	w := &window{}
	g, _ := withWindow(t, w, func(c *Config) { c.MaxFDs = 64 })
	g.write("f", "content")
	node := g.lookup(fp.RootID, "f")
	w.answer = make(chan struct{})
	const mappings, may = 50, 60 / mappingFDs
	errnos := make(chan unix.Errno, mappings)
	for i := range uint64(mappings) {
		go func() { errnos <- g.share.guest().setup(node, linux(i%8*DAXUnit, 0, false)) }()
	}
	for range mappings - may {
		wantErrno(t, "one mapping too many", <-errnos, unix.EAGAIN)
	}
	g.within("mappings")
	_, errno := g.tryOpen(node, unix.O_RDONLY)
	wantErrno(t, "open", errno, unix.ENFILE)
	g.mkdir(fp.RootID, "d")
	close(w.answer)
	mapped := 0
	for range may {
		if <-errnos == 0 {
			mapped++
		}
	}
	if mapped < 8 {
		t.Errorf("%d requests for 8 ranges were answered", mapped)
	}
	if n := g.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d descriptors are still counted", n)
	}
}

// TestAllCounted: nothing makes a descriptor without counting it, but what is done once at
// the start.
func TestAllCounted(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	makes := regexp.MustCompile(`(sysOpenat|sysDup|sysOpenByHandleAt|unix\.Open\w*|unix\.Dup\w*|unix\.Socket\w*|os\.Open\w*)\(`)
	opened := regexp.MustCompile(`\b(fds|d)\.opened\(`)
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		function := ""
		for i, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(line, "func ") {
				function = line
			}
			if !makes.MatchString(line) || strings.HasPrefix(line, "func sys") {
				continue
			}
			found++
			if !opened.MatchString(line) && !strings.Contains(function, ") tryHandle(") {
				t.Errorf("%s:%d: %s", file, i+1, strings.TrimSpace(line))
			}
		}
	}
	if found < 5 {
		t.Errorf("%d calls found, which can't be all", found)
	}
}

// TestBudgetOfTwoShares: a client that takes all descriptors it can get leaves another
// share of the process what is its own, to keep and to serve requests with. Both together
// never have more than there are.
func TestBudgetOfTwoShares(t *testing.T) {
	const all, own = 400, 100
	h, err := host.New(host.Options{Descriptors: all, ShareDescriptors: own})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(c *Config) { c.Host = h }
	greedy, modest := newShare(t, edit, 0).guest(), newShare(t, edit, 0).guest()
	within := func(what string) {
		t.Helper()
		if n := greedy.fs.fds.part.Taken() + modest.fs.fds.part.Taken(); n > all {
			t.Fatalf("%s: %d descriptors of %d", what, n, all)
		}
	}
	node := greedy.mknod(fp.RootID, "a")
	open := greedy.openAll(node)
	if n := len(open); n < all-own-own/8 || n > all-own {
		t.Errorf("the greedy client has %d files open, want about %d", n, all-own)
	}
	for i := range 300 { // and as many nodes that can't be found again
		file := fmt.Sprint("f", i)
		greedy.mknod(fp.RootID, file)
		wantErrno(t, "unlink", greedy.fs.Unlink(greedy.on(fp.RootID), name(file)), 0)
		within("unlink")
	}
	other := modest.mknod(fp.RootID, "a")
	theirs := modest.openAll(other)
	within("open")
	if n := len(theirs); n < own-own/8 || n > own {
		t.Errorf("the modest client has %d files open, want about %d", n, own)
	}
	for i := range 300 { // both can still have nodes
		file := fmt.Sprint("g", i)
		modest.mkdir(fp.RootID, file)
		greedy.mkdir(fp.RootID, file)
		within("mkdir")
	}
	for _, fh := range open {
		wantErrno(t, "release", greedy.release(node, fh), 0)
	}
	if n := len(modest.openAll(other)); n < all/2 {
		t.Errorf("the modest client can open %d more when the other has none, want %d", n, all/2)
	}
	within("open more")
}

// TestTooManyShares: a share is refused that would have nothing of its own.
func TestTooManyShares(t *testing.T) {
	h, err := host.New(host.Options{Descriptors: 100, ShareDescriptors: 60})
	if err != nil {
		t.Fatal(err)
	}
	newShare(t, func(c *Config) { c.Host = h }, 0)
	if _, err := New(Config{Host: h}); !errors.Is(err, host.ErrBudget) {
		t.Errorf("one more share: %v", err)
	}
}
