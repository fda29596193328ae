package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// disturber does something to a daemon at random moments.
type disturber struct {
	times  atomic.Int64
	served atomic.Int64 // requests of all users
}

// run calls f n times. Requests have been served since the time before.
func (k *disturber) run(t *testing.T, n int, f func()) {
	t.Helper()
	for range n {
		served := k.served.Load()
		for end := time.Now().Add(60 * time.Second); k.served.Load() <= served+2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nothing is served after %d times", k.times.Load())
			}
		}
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // any moment will do
		f()
		k.times.Add(1)
	}
}

// changer changes a directory of its own, and knows what must come of each request.
type changer struct {
	t    *testing.T
	c    *frontend.Client
	k    *disturber
	dir  uint64
	have map[string]string // name: "dir", or what a file has
	n    int
}

// want checks a request's errno: 0 is success.
func (u *changer) want(what string, err error, want unix.Errno) {
	u.k.served.Add(1)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) || errno != want {
		u.t.Errorf("step %d: %s: %v, want %v", u.n, what, err, want)
	}
}

// round makes changes that can't be made twice.
func (u *changer) round() {
	u.n++
	name := func(kind string) string { return fmt.Sprintf("%s%d", kind, u.n) }
	dir, file, link := name("d"), name("f"), name("l")
	entry, err := u.c.Mkdir(u.dir, dir, 0o755)
	u.want("mkdir", err, 0)
	_, err = u.c.Mkdir(u.dir, dir, 0o755)
	u.want("mkdir again", err, unix.EEXIST)
	out, err := u.c.Create(u.dir, file, unix.O_RDWR|unix.O_EXCL|unix.O_APPEND, 0o644)
	u.want("create", err, 0)
	node, fh := out.Entry.NodeID, out.Open.Fh
	for i := range 3 {
		_, err = u.c.Write(node, fh, uint64(2*i), []byte(fmt.Sprintf("%d.", i)))
		u.want("append", err, 0)
	}
	_, err = u.c.Link(node, entry.NodeID, "hard")
	u.want("link", err, 0)
	_, err = u.c.Link(node, entry.NodeID, "hard")
	u.want("link again", err, unix.EEXIST)
	_, err = u.c.Symlink(u.dir, link, file)
	u.want("symlink", err, 0)
	u.want("rename", u.c.Rename(u.dir, file, u.dir, file+"x", 1), 0) // RENAME_NOREPLACE
	u.want("rename again", u.c.Rename(u.dir, file, u.dir, file+"y", 1), unix.ENOENT)
	u.want("rmdir of a full one", u.c.Rmdir(u.dir, dir), unix.ENOTEMPTY)
	u.want("unlink", u.c.Unlink(entry.NodeID, "hard"), 0)
	u.want("unlink again", u.c.Unlink(entry.NodeID, "hard"), unix.ENOENT)
	if u.n%2 == 0 { // the file is without a name from now on
		u.want("unlink of an open file", u.c.Unlink(u.dir, file+"x"), 0)
		u.want("rmdir", u.c.Rmdir(u.dir, dir), 0)
	} else {
		u.have[dir], u.have[file+"x"] = "dir", "0.1.2."
	}
	u.have[link] = "-> " + file
	b, err := u.c.Read(node, fh, 0, 100)
	u.want("read", err, 0)
	if err == nil && string(b) != "0.1.2." {
		u.t.Errorf("step %d: the file has %q", u.n, b)
	}
	u.want("release", u.c.Release(node, fh), 0)
	u.want("forget", u.c.Forget(node, 1), 0)
	u.want("forget", u.c.Forget(entry.NodeID, 1), 0)
}

// check compares the directory with what the user has made.
func (u *changer) check(path string) {
	got := map[string]string{}
	entries, err := os.ReadDir(path)
	if err != nil {
		u.t.Fatal(err)
	}
	for _, e := range entries {
		at := filepath.Join(path, e.Name())
		switch e.Type() {
		case os.ModeDir:
			got[e.Name()] = "dir"
		case os.ModeSymlink:
			to, _ := os.Readlink(at)
			got[e.Name()] = "-> " + to
		default:
			b, _ := os.ReadFile(at)
			got[e.Name()] = string(b)
		}
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range u.have {
			if !yield(k) {
				return
			}
		}
	}) {
		if got[name] != u.have[name] {
			u.t.Errorf("%s is %q, want %q", name, got[name], u.have[name])
		}
		delete(got, name)
	}
	for name, what := range got {
		u.t.Errorf("%s, %q, was not made or was removed", name, what)
	}
}

// load is users who change a share all the time.
type load struct {
	t     *testing.T
	c     *frontend.Client
	share string
	held  fp.CreateOut // a file that has no name any more
	users []*changer
	done  atomic.Bool
	wg    sync.WaitGroup
	disturber
}

func startLoad(t *testing.T, c *frontend.Client, share string) *load {
	t.Helper()
	l := &load{t: t, c: c, share: share}
	held, err := c.Create(fp.RootID, "held", unix.O_RDWR, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Unlink(fp.RootID, "held"); err != nil {
		t.Fatal(err)
	}
	l.held = held
	for i := range 4 {
		e, err := c.Mkdir(fp.RootID, fmt.Sprint(i), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		u := &changer{t: t, c: c, k: &l.disturber, dir: e.NodeID, have: map[string]string{}}
		l.users = append(l.users, u)
		l.wg.Go(func() {
			for !l.done.Load() && !t.Failed() {
				u.round()
			}
		})
	}
	return l
}

// end ends the load and looks at what has come of it.
func (l *load) end() {
	l.done.Store(true)
	l.wg.Wait()
	for i, u := range l.users {
		u.check(filepath.Join(l.share, fmt.Sprint(i)))
	}
	node, fh := l.held.Entry.NodeID, l.held.Open.Fh
	if n, err := l.c.Write(node, fh, 0, []byte("still here")); n != 10 || err != nil {
		l.t.Errorf("a file without a name: %d bytes, %v", n, err)
	}
	if b, err := l.c.Read(node, fh, 0, 100); string(b) != "still here" || err != nil {
		l.t.Errorf("a file without a name has %q, %v", b, err)
	}
	l.t.Logf("%d times, %d requests", l.times.Load(), l.served.Load())
}

// underLoad does something to a daemon again and again, in each sandbox, while a guest changes things
// that can't be changed twice. Every reply is the one of a daemon that nothing happens to, and so
// is the tree.
func underLoad(t *testing.T, times int, f func(t *testing.T, pid int)) {
	t.Helper()
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
			d := startDaemon(t, nil, "--sandbox="+box, "--shared-dir="+share, "--socket-path="+socket)
			d.waitLine(waitingLine)
			c := connect(t, socket)
			l := startLoad(t, c, share)
			l.run(t, times, func() { f(t, d.cmd.Process.Pid) })
			l.end()
			c.Close()
			d.wantStatus(exitOK)
			wantNoFiles(t, socket)
		})
	}
}

// TestIntegrationRecovered kills workers at random moments.
func TestIntegrationRecovered(t *testing.T) {
	const kills = 100
	last := 0
	underLoad(t, kills, func(t *testing.T, pid int) {
		if all := daemontest.Children(t, pid); len(all) == 1 && all[0] != last {
			last = all[0]
			_ = unix.Kill(last, unix.SIGKILL)
		}
	})
}

// TestIntegrationUpgraded upgrades the daemon at random moments.
func TestIntegrationUpgraded(t *testing.T) {
	const upgrades = 20
	underLoad(t, upgrades, func(t *testing.T, pid int) {
		before := daemontest.Children(t, pid)
		_ = unix.Kill(pid, unix.SIGUSR2)
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
			if now := daemontest.Children(t, pid); len(now) == 1 && now[0] != before[0] {
				return
			}
			if time.Now().After(end) {
				t.Fatal("no other worker after 60 s")
			}
		}
	})
}
