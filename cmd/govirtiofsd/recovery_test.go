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

// killer kills a daemon's workers, one after the other, at random moments.
type killer struct {
	daemon int
	last   int
	kills  atomic.Int64
	served atomic.Int64 // requests of all users
}

// run kills n workers. Each has served requests before.
func (k *killer) run(t *testing.T, n int) {
	for range n {
		served := k.served.Load()
		for end := time.Now().Add(60 * time.Second); k.served.Load() <= served+2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("no worker serves")
				return
			}
		}
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // any moment will do
		all := daemontest.Children(t, k.daemon)
		if len(all) != 1 || all[0] == k.last {
			continue
		}
		k.last = all[0]
		_ = unix.Kill(k.last, unix.SIGKILL)
		k.kills.Add(1)
	}
}

// changer changes a directory of its own, and knows what must come of each request.
type changer struct {
	t    *testing.T
	c    *frontend.Client
	k    *killer
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

// TestIntegrationRecovered kills workers at random moments while guests change things that can't be
// changed twice. Every reply is the one of a daemon that lives, and so is the tree.
func TestIntegrationRecovered(t *testing.T) {
	guest.NeedRoot(t)
	const kills, users = 100, 4
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
			d := startDaemon(t, nil, "--sandbox="+box, "--shared-dir="+share, "--socket-path="+socket)
			d.waitLine(waitingLine)
			c := connect(t, socket)
			k := &killer{daemon: d.cmd.Process.Pid}
			held, err := c.Create(fp.RootID, "held", unix.O_RDWR, 0o444)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Unlink(fp.RootID, "held"); err != nil {
				t.Fatal(err)
			}
			all := make([]*changer, users)
			for i := range all {
				e, err := c.Mkdir(fp.RootID, fmt.Sprint(i), 0o755)
				if err != nil {
					t.Fatal(err)
				}
				all[i] = &changer{t: t, c: c, k: k, dir: e.NodeID, have: map[string]string{}}
			}
			var wg sync.WaitGroup
			var done atomic.Bool
			for _, u := range all {
				wg.Go(func() {
					for !done.Load() && !t.Failed() {
						u.round()
					}
				})
			}
			k.run(t, kills)
			done.Store(true)
			wg.Wait()
			for i, u := range all {
				u.check(filepath.Join(share, fmt.Sprint(i)))
			}
			if n, err := c.Write(held.Entry.NodeID, held.Open.Fh, 0, []byte("still here")); n != 10 || err != nil {
				t.Errorf("a file without a name: %d bytes, %v", n, err)
			}
			if b, err := c.Read(held.Entry.NodeID, held.Open.Fh, 0, 100); string(b) != "still here" || err != nil {
				t.Errorf("a file without a name has %q, %v", b, err)
			}
			t.Logf("%d kills, %d requests", k.kills.Load(), k.served.Load())
			c.Close()
			d.wantStatus(exitOK)
			wantNoFiles(t, socket)
		})
	}
}
