package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// TestStateShow prints the ledger of a process, here this one, by its id and by the file's path.
func TestStateShow(t *testing.T) {
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Store()
	if err != nil {
		t.Fatal(err)
	}
	s.AddNode(nil, 7<<32|2, 3, &ledger.Identity{Ino: 5}, &ledger.Place{})
	s.AddNode(nil, fp.RootID, 1, &ledger.Identity{Ino: 4}, &ledger.Place{})
	s.PlaceNode(7<<32|2, &ledger.Place{Parent: fp.RootID, Name: fp.Name("new\nline\x00")})
	for _, arg := range []string{strconv.Itoa(os.Getpid()), filepath.Join("/proc/self/fd", strconv.Itoa(l.FD()))} {
		var b bytes.Buffer
		if err := showState(&b, arg); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"ledger version=2 ", "node id=30064771074 lookups=3 parent-slot=1 name=\"new\\nline\" ", "\nend requests=0 nodes=2 opens=0 lock-owners=0 locks=0\n"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: missing %q in\n%s", arg, want, b.String())
			}
		}
	}
}

// TestStateShowMigration prints a state as a VMM gets it.
func TestStateShowMigration(t *testing.T) {
	var state bytes.Buffer
	w := record.NewWriter(&state)
	w.Bytes([]byte("govirtiofs-state\x01"))
	w.Uint(1, 45, 0x10, 1<<20, 1<<20, 0) // a session; no file handles
	w.Uint(1, 2, 9, 0o100000, 1, 0)      // a node in the root
	w.Bytes([]byte("a \xff\x1b[31m name"))
	w.Bytes(nil)
	w.Uint(2, 3, 1, 2)    // open
	w.Uint(0, 3, 0, 4, 0) // the end
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(name, state.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := showState(&b, name); err != nil {
		t.Fatal(err)
	}
	want := `state version=1
session minor=45 features=0x10 max-write=1048576 max-read=1048576
file-handles mode=none
node number=1 id=2 lookups=9 kind=0100000 parent=0 name="a \xff\x1b[31m name"
open id=3 node=1 flags=0x2
end node-slots=3 node-generations=0 open-slots=4 open-generations=0
`
	if b.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", b.String(), want)
	}
}

// TestStateShowErrors: what can't be shown is said.
func TestStateShowErrors(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	half := filepath.Join(dir, "half")
	for name, content := range map[string]string{other: "something else", half: "\x11govirtiofs-state\x01\x01\x2d"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(socket+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := filepath.Join(dir, "ended")
	le, err := net.Listen("unix", ended)
	if err != nil {
		t.Fatal(err)
	}
	defer le.Close()
	if err := os.WriteFile(ended+".pid", []byte("2147483000"), 0o600); err != nil {
		t.Fatal(err)
	}
	for arg, want := range map[string]string{
		ended:                        ended + ": its daemon (process 2147483000) has ended",
		socket:                       fmt.Sprintf("process %d has no ledger", os.Getpid()),
		other:                        "neither a ledger nor the state",
		half:                         "unexpected EOF",
		filepath.Join(dir, "nosuch"): "there is no file or socket " + dir,
		"2147483000":                 "there is no process 2147483000 (a file of that name is ./2147483000)",
		strconv.Itoa(os.Getpid()):    "has no ledger",
		dir:                          "neither a ledger nor",
	} {
		if err := showState(new(bytes.Buffer), arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
	for _, args := range [][]string{{"state"}, {"state", "show"}, {"state", "show", "1", "2"}, {"state", "other"}, {"help", "nosuch"}} {
		if status := run(args); status != 2 {
			t.Errorf("%v: exit status %d", args, status)
		}
	}
	root := newRoot()
	root.SetArgs([]string{"state", "shwo"})
	if err := root.Execute(); err == nil || err.Error() != `unknown command "shwo"; did you mean show?` {
		t.Error(err)
	}
}
