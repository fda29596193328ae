package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// needLandlock skips where the kernel has none.
func needLandlock(t *testing.T) {
	t.Helper()
	guest.NeedRoot(t)
	if sandbox.LandlockVersion() < 2 {
		t.Skip(sandbox.ErrNoLandlock)
	}
}

// The daemon does everything under Landlock's rules, in every sandbox, and removes its
// files at the end.
func TestIntegrationLandlock(t *testing.T) {
	needLandlock(t)
	for _, box := range sandboxes() {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, read-only %v", box, readOnly), func(t *testing.T) {
				dir := tempDir(t)
				args := []string{"--socket-path", dir + "/s", "--shared-dir", tempDir(t), "--sandbox=" + box, "--landlock=always", "--xattr"}
				if readOnly {
					args = append(args, "--readonly")
				}
				d := startDaemon(t, nil, args...)
				d.waitLine(waitingLine)
				c := connect(t, dir+"/s")
				if err := exercise(c, readOnly); err != nil {
					t.Error(err)
				}
				c.Close()
				d.wantStatus(exitOK)
				wantNoFiles(t, dir+"/s")
			})
		}
	}
}

// forgetDentries has the kernel forget the names of files that nobody has open.
func forgetDentries(t *testing.T) {
	t.Helper()
	unix.Sync()
	for range 3 { // names that were used lately are spared at first
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Skip(err)
		}
	}
}

// A file that was found again by its handle can't be opened under Landlock's rules:
// names come first. A file that the host has renamed meanwhile is stale until the
// guest has looked it up.
func TestIntegrationLandlockHandles(t *testing.T) {
	needLandlock(t)
	const files = 900
	dir := tempDir(t)
	name := func(i int) string { return fmt.Sprintf("file%d", i) }
	if err := os.Mkdir(dir+"/share", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(dir+"/share/"+name(i), []byte(name(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const window = 2 << 20
	if err := os.Truncate(dir+"/share/file0", window); err != nil { // any VMM could map it
		t.Fatal(err)
	}
	d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir+"/share", "--tag=t",
		"--sandbox=none", "--landlock=always", "--inode-file-handles=mandatory", "--rlimit-nofile=700",
		"--dax=always", "--dax-window-size=2M")
	d.waitLine(waitingLine)
	f, err := frontend.Dial(dir+"/s", frontend.Options{Queues: 3, Window: &frontend.WindowOptions{}})
	if err != nil {
		t.Fatal(err)
	}
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags | frontend.DAXFlags); err != nil {
		t.Fatal(err)
	}
	read := func(node uint64) (string, error) {
		fh, err := c.Open(node, unix.O_RDONLY)
		if err != nil {
			return "", err
		}
		b, err := c.Read(node, fh, 0, 100)
		return strings.TrimRight(string(b), "\x00"), errors.Join(err, c.Release(node, fh))
	}
	nodes := make([]uint64, files)
	for i := range nodes {
		e, err := c.Lookup(1, name(i))
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = e.NodeID
	}
	forgetDentries(t)
	for i, node := range nodes {
		if got, err := read(node); err != nil || got != name(i) {
			t.Fatalf("file %d has %q, %v", i, got, err)
		}
	}
	if err := os.Rename(dir+"/share/file0", dir+"/share/renamed"); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes[1:] { // so that file0 is evicted
		if _, err := c.Getattr(node); err != nil {
			t.Fatal(err)
		}
	}
	forgetDentries(t)
	if _, err := c.Open(nodes[0], unix.O_RDONLY); err != nil && !errors.Is(err, unix.ESTALE) {
		t.Errorf("open after the host's rename: %v", err)
	}
	if e, err := c.Lookup(1, "renamed"); err != nil || e.NodeID != nodes[0] {
		t.Errorf("lookup of the new name: node %d instead of %d, %v", e.NodeID, nodes[0], err)
	}
	if err := c.SetupMapping(nodes[0], ^uint64(0), 0, window, 0, fp.SetupMappingRead); err != nil {
		t.Errorf("mapped after the lookup: %v", err)
	}
	b := make([]byte, 5)
	if _, err := f.Window.ReadAt(b, 0); err != nil || string(b) != "file0" {
		t.Errorf("the window shows %q, %v", b, err)
	}
	if got, err := read(nodes[0]); err != nil || got != "file0" {
		t.Errorf("after the lookup: %q, %v", got, err)
	}
	c.Close()
	d.wantStatus(exitOK)
}
