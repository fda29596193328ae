package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// eventsScript is what an editor, a compiler and a version control system do on the host. The pauses
// keep the kernel from putting events of one file together. seen WHAT waits until the watchers have seen something.
const eventsScript = `p() { sleep 0.2; }
	mkdir src/new; seen new; echo 'package new' >src/new/new.go; p
	echo more >>src/main.go; p
	echo changed >src/.main.go.swp; mv src/.main.go.swp src/main.go; p
	cp src/main.go src/copy.go; p; chmod 700 src/copy.go; p; ln -s copy.go src/link; p
	mv src/copy.go lib/moved.go; p; mv lib src/lib; p; mv src/lib lib; p
	rm src/link src/old.go; p; rm lib/moved.go; p
	rm src/new/new.go; p; rmdir src/new; p; rm -r .git/objects; p
	echo line 1 >>log; p; seen line1; mv log log.1; echo line 2 >log; p; seen line2; echo line 3 >>log; p; seen line3`

// givenTime is for a watcher that does not say what it has seen.
const givenTime = "seen() { case $1 in new|line3) sleep 3;; esac; }\n"

func prepareEvents(t *testing.T, dir string) {
	t.Helper()
	sh(t, dir, `mkdir src lib .git .git/objects; echo 'package main' >src/main.go; echo old >src/old.go; echo lib >lib/lib.go; echo line 0 >log; echo x >.git/objects/x`)
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}

// appears waits for a file.
func appears(t *testing.T, vm *guest.VM, path string) {
	t.Helper()
	for range 9000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	vm.Kill()
	r, err := vm.Wait()
	t.Fatalf("no %s: %v\n%s", path, err, tail(r.Output))
}

// TestIntegrationEvents: a script on the host makes a recursive watcher in a guest hear the same as
// one on the host hears of a local directory, and tail -F prints the same.
func TestIntegrationEvents(t *testing.T) {
	kinds := []guest.Kind{guest.UML}
	if os.Getenv("GOVIRTIOFS_LONG") != "" {
		kinds = append(kinds, guest.QEMU72, guest.QEMU11)
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) { testEvents(t, kind) })
	}
}

func testEvents(t *testing.T, kind guest.Kind) {
	guest.Need(t, kind)
	helper, watch := build(t, "build", "./cmd/govirtiofs-guest"), build(t, "build", "./internal/guest/cmd/guestwatch")
	local := guest.TempDir(t)
	prepareEvents(t, local)
	var want bytes.Buffer
	cmd := exec.Command(watch, "-ready", filepath.Join(local, "..", filepath.Base(local)+".ready"), local)
	cmd.Stdout = &want
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(local, "..", filepath.Base(local)+".ready")
	defer func() { _ = os.Remove(ready) }()
	for range 5000 {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	sh(t, local, givenTime+eventsScript+"\n: >the-end")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	d := start(t, "", "--events=auto", "--cache=always")
	prepareEvents(t, d.dir)
	host := guest.TempDir(t)
	script := `/run/helper watch -v /mnt/fs >/run/host/helper 2>&1 & h=$!
		i=0; until grep -q reported /run/host/helper; do sleep 0.1; i=$((i+1)); [ $i -lt 300 ]; done
		cd /mnt/fs; cat src/main.go lib/lib.go >/dev/null; ls -lR >/dev/null
		$BUSYBOX tail -F log >/run/host/tail 2>/dev/null & t=$!
		/run/guestwatch -ready /mnt/fs/.ready /mnt/fs >/run/host/events
		for f in src/main.go log lib/lib.go; do echo "$f: $(cat $f)"; done; ls -A src lib .git
		kill $h $t; wait; cd /`
	vm, err := guest.Start(context.Background(), kind, guest.Options{Shares: []guest.Share{d.Share}, HostDir: host, Script: script,
		Files: map[string]string{helper: "/run/helper", watch: "/run/guestwatch"}})
	if err != nil {
		t.Fatal(err)
	}
	appears(t, vm, filepath.Join(d.dir, ".ready"))
	sh(t, d.dir, givenTime+eventsScript+"\n: >the-end")
	r, err := vm.Wait()
	got, _ := os.ReadFile(filepath.Join(host, "events"))
	said, _ := os.ReadFile(filepath.Join(host, "helper"))
	if err != nil || r.Status != 0 {
		t.Fatalf("%v: status %d\n%s\nhelper: %s", err, r.Status, tail(r.Output), said)
	}
	// What the guest did itself is heard of once.
	own := "CREATE .ready\nCLOSE_WRITE .ready\n"
	if !strings.HasPrefix(string(got), own) {
		t.Errorf("its own file: got\n%s", got)
	}
	got = bytes.TrimPrefix(got, []byte(own))
	if a, b := strings.Split(string(got), "\n"), strings.Split(want.String(), "\n"); !slices.Equal(a, b) {
		t.Errorf("got\n%s\nwant\n%s\nhelper: %s\n%s", got, want.String(), said, tail(d.log.String()))
	}
	for _, text := range []string{"src/main.go: changed", "log: line 2\nline 3"} {
		if !strings.Contains(r.Output, text) {
			t.Errorf("no %q in\n%s", text, r.Output)
		}
	}
	lines, _ := os.ReadFile(filepath.Join(host, "tail"))
	if got := string(lines); got != "line 0\nline 1\nline 2\nline 3\n" {
		t.Errorf("tail -F says %q", got)
	}
}
