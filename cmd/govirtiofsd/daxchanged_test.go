package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// changedFile is a file of two units, which have the bytes first and second in them.
type changedFile struct {
	path string
	node uint64
	at   uint64 // of its first unit in the window
}

func (f *changedFile) write(t *testing.T, first, second byte) {
	t.Helper()
	b := append(bytes.Repeat([]byte{first}, mapUnit), bytes.Repeat([]byte{second}, mapUnit)...)
	if err := os.WriteFile(f.path+".new", b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}

// TestIntegrationDeathWindowChanged: the host changes files that a guest has mapped while no process serves. Mappings that are there
// stay those of the files that were mapped, as without a death. What is mapped later, or was being mapped, is of the
// file that the guest knows or is refused, and never of another one with its name.
func TestIntegrationDeathWindowChanged(t *testing.T) {
	guest.NeedRoot(t)
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	const units = 16
	d := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+socket, "--tag=t", "--dax=always", fmt.Sprintf("--dax-window-size=%d", units*mapUnit))
	d.waitLine(waitingLine)
	const busy = 14 * mapUnit // where a file is being mapped when the worker dies
	var held atomic.Bool
	arrived, release := make(chan struct{}), make(chan struct{})
	f, err := frontend.Dial(socket, frontend.Options{Queues: 2, Window: &frontend.WindowOptions{
		Before: func(_ vhostuser.BackendRequest, m vhostuser.SharedMemoryMap) error {
			if m.Offset == busy && held.CompareAndSwap(false, true) {
				close(arrived)
				<-release
			}
			return nil
		}}})
	if err != nil {
		t.Fatal(err)
	}
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags | frontend.DAXFlags); err != nil {
		t.Fatal(err)
	}
	setup := func(node, off, at uint64) error {
		return c.SetupMapping(node, ^uint64(0), off, mapUnit, at, fp.SetupMappingRead|fp.SetupMappingWrite)
	}
	files := map[string]*changedFile{}
	for i, name := range []string{"cut", "replaced", "removed", "busy"} {
		f := &changedFile{path: filepath.Join(share, name), at: uint64(2*i) * mapUnit}
		f.write(t, byte('a'+i), byte('A'+i))
		e, err := c.Lookup(fp.RootID, name)
		if err == nil {
			err = setup(e.NodeID, 0, f.at)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		f.node, files[name] = e.NodeID, f
	}
	// wantAt compares the first byte of a page in the window; 0 stands for what is not there.
	wantAt := func(what string, at uint64, want byte) {
		t.Helper()
		b := make([]byte, 1)
		if _, err := c.Window.ReadAt(b, int64(at)); (err != nil) != (want == 0) || b[0] != want {
			t.Errorf("%s: the window has %q, %v, want %q", what, b, err, want)
		}
	}
	mapped := func(at uint64) bool {
		return slices.ContainsFunc(c.Window.Mappings(), func(m vhostuser.SharedMemoryMap) bool { return m.Offset == at })
	}

	inFlight := make(chan error, 1)
	go func() { inFlight <- setup(files["busy"].node, mapUnit, busy) }()
	select {
	case <-arrived:
	case <-time.After(60 * time.Second):
		t.Fatal("the front-end was not asked for a mapping")
	}
	if err := d.cmd.Process.Signal(unix.SIGSTOP); err != nil { // no worker is started meanwhile
		t.Fatal(err)
	}
	if killServing(t, d.cmd.Process.Pid, 0) == 0 {
		t.Fatal("no worker")
	}
	if err := os.Truncate(files["cut"].path, 4096); err != nil {
		t.Fatal(err)
	}
	files["replaced"].write(t, 'x', 'X')
	files["busy"].write(t, 'y', 'Y')
	if err := os.Remove(files["removed"].path); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	close(release)

	// The request that was under way: refused, or the file that the guest knows.
	if err := <-inFlight; err == nil {
		wantAt("mapped again", busy, 'A'+3)
	} else { // the successor unmaps what was half done, beside the request
		eventually(t, "refused", func() error {
			if mapped(busy) {
				return errors.New("the mapping is there")
			}
			return nil
		})
	}
	wantAt("a file that was cut off", files["cut"].at, 'a')
	wantAt("behind its end", files["cut"].at+4096, 0)
	for i, name := range []string{"replaced", "removed", "busy"} {
		f := files[name]
		wantAt(name, f.at, byte('b'+i))
		if err := setup(f.node, 0, f.at); err != nil { // as a guest does that wants to write
			t.Errorf("%s: setup of what is there: %v", name, err)
		}
		wantAt(name+" after the second setup", f.at, byte('b'+i))
		if err := setup(f.node, mapUnit, f.at+mapUnit); err == nil {
			wantAt(name+" mapped later", f.at+mapUnit, byte('B'+i))
		} else if mapped(f.at + mapUnit) {
			t.Errorf("%s: the mapping was refused, %v, and is there", name, err)
		}
	}
	if err := setup(files["cut"].node, mapUnit, files["cut"].at+mapUnit); err == nil || mapped(files["cut"].at+mapUnit) {
		t.Errorf("a part behind the end was mapped, %v", err)
	}
	// The new files have nodes of their own.
	for i, name := range []string{"replaced", "busy"} {
		e, err := c.Lookup(fp.RootID, name)
		if err != nil || e.NodeID == files[name].node {
			t.Fatalf("%s: lookup finds node %d, which was %d, %v", name, e.NodeID, files[name].node, err)
		}
		at := uint64(10+i) * mapUnit
		if err := setup(e.NodeID, mapUnit, at); err != nil {
			t.Errorf("%s: setup of the new file: %v", name, err)
		}
		wantAt("new "+name, at, byte('X'+i))
	}
	for at := uint64(0); at < units; at++ {
		if !mapped(at * mapUnit) {
			continue
		}
		if err := c.RemoveMapping(fp.RootID, fp.RemoveMappingOne{Moffset: at * mapUnit, Len: mapUnit}); err != nil {
			t.Error(err)
		}
	}
	if left := c.Window.Mappings(); len(left) > 0 {
		t.Errorf("still mapped: %v", left)
	}
	c.Close()
	d.wantStatus(exitOK)
}
