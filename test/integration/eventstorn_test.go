package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// tornScript keeps the tree t of the share in the guest's memory, has the helper die when the host says so, and then says
// again and again what it sees.
const tornScript = `helper() { /run/helper watch /mnt/fs >/run/helped 2>&1 & h=$!; until grep -q reported /run/helped; do sleep 0.1; done; }
cd /mnt/fs/t; export LC_ALL=C
tree() { { ` + treeScript + `; } >/run/tree 2>/dev/null; cp /run/tree ../tree.new; mv ../tree.new ../tree; }
helper; tree; : >../warm
until [ -e ../kill ]; do sleep 0.1; done
kill -9 $h; wait $h; : >../killed
until [ -e ../another ]; do sleep 0.1; done
helper; : >../helped
until [ -e ../leave ]; do tree; sleep 0.1; done
kill $h; wait`

// TestIntegrationEventsTorn: whatever happens to the helper, the daemon's worker and the guest while the host changes files,
// the guest's memory is right soon after, though it may keep everything (--cache=always).
func TestIntegrationEventsTorn(t *testing.T) {
	guest.Need(t, guest.UML)
	files, kills := 400, 5
	if os.Getenv("GOVIRTIOFS_LONG") != "" {
		files, kills = 20_000, 50
	}
	helper := build(t, "build", "./cmd/govirtiofs-guest")
	d := start(t, "", "--events=auto", "--cache=always", "--log-level=info")
	share := filepath.Join(d.dir, "t")
	sh(t, d.dir, `mkdir t; cd t; for d in 1 2 3 4 5 6 7 8; do mkdir d$d; for f in 1 2 3 4 5 6 7 8 9; do echo old >d$d/f$f; done; done`)
	vm, err := guest.Start(context.Background(), guest.UML, guest.Options{Shares: []guest.Share{d.Share}, Script: tornScript,
		Files: map[string]string{helper: "/run/helper"}, Timeout: time.Duration(2+files/1000) * 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	k := newWorkerKiller(t, d, vm)
	defer func() {
		if t.Failed() {
			t.Log(tail(vm.Output()), tail(d.log.String()))
		}
		vm.Kill()
	}()
	k.exists("warm")

	burst := make(chan error, 1)
	go func() {
		cmd := exec.Command("/bin/sh", "-ec", fmt.Sprintf(`for d in 1 2 3 4 5; do mkdir new$d; (cd new$d; for f in $(seq %d); do echo $f >f$f; done; mkdir sub; echo x >sub/x); done
			for d in 1 2 3 4; do for f in 1 2 3; do echo newer >d$d/.tmp; mv d$d/.tmp d$d/f$f; done; rm d$d/f4; mv d$d/f5 d$d/g5; done
			mv d8 e8; rm -r d7; chmod 600 d6/*; rm new1/f*; echo more >>d5/f9`, files/5))
		cmd.Dir = share
		burst <- cmd.Run()
	}()
	k.kill(kills)
	if err := <-burst; err != nil {
		t.Fatal(err)
	}
	settled := func(when string) {
		t.Helper()
		there := hostTree(t, share)
		defer func() {
			if t.Failed() {
				t.Logf("there is\n%s\nand the guest sees\n%s", there, read(t, d.dir, "tree"))
			}
		}()
		k.until("the guest sees what there is "+when, func() bool { return strings.TrimSpace(read(t, d.dir, "tree")) == there })
	}

	// A paused guest: longer than a request of the helper waits.
	if err := unix.Kill(vm.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	sh(t, share, "echo paused >d1/f1; rm d1/f2; mkdir d1/new; mv d2/f1 d1/moved")
	time.Sleep(4 * time.Second) // the guest's clock stands still, so there is nothing to wait for
	sh(t, share, "echo paused >d3/f1")
	if err := unix.Kill(vm.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	k.put("kill")
	k.exists("killed")
	sh(t, share, "echo alone >d1/f3; rm d3/f2; mv d2/f2 d2/f3; echo born >d2/born")
	k.put("another")
	k.exists("helped")
	settled("after a pause and without a helper")
	sh(t, share, "echo again >d1/f3; rm -r d2; echo born >d3/born; mv e8 d8")
	settled("in the end")
	k.put("leave")
	if r, err := vm.Wait(); err != nil || r.Status != 0 {
		t.Fatalf("%v, status %d\n%s", err, r.Status, tail(r.Output))
	}
	if !strings.Contains(d.log.String(), "has gone") {
		t.Error("the log does not say that the helper has gone")
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hostTree is what treeScript says on the host.
func hostTree(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", treeScript)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
