package events_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestUntold: more changes than fit in a batch that can't be told, because the path of their directory is too long,
// do not keep others from being told.
func TestUntold(t *testing.T) {
	g := newGuest(t)
	g.help()
	g.read()
	at, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name, node := strings.Repeat("d", 250), uint64(fp.RootID)
	var fds []int
	for range wire.MaxPath/250 + 1 {
		fds = append(fds, at)
		if err := unix.Mkdirat(at, name, 0o700); err != nil {
			t.Fatal(err)
		}
		if at, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		e, errno := g.lookup(1, node, name)
		if errno != 0 {
			t.Fatal(errno)
		}
		node = e.NodeID
	}
	defer unix.Close(at)
	for _, fd := range fds {
		defer unix.Close(fd)
	}
	cmd := exec.Command("/bin/sh", "-c", "for i in $(seq 600); do : >f$i; done")
	cmd.Dir = fmt.Sprintf("/proc/self/fd/%d", at)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	g.host(": >x")
	if r := g.until(wire.Make); r.Path != "x" {
		t.Errorf("%+v", r)
	}
}
