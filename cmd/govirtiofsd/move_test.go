package main

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// A guest moves from one daemon to another in every sandbox and mode. With file handles it
// keeps what the host moves within the share meanwhile, and loses what the host moves out
// of it.
func TestIntegrationMove(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		for _, args := range []string{"", "--migration-verify-handles", "--migration-mode=file-handles"} {
			t.Run(box+" "+args, func(t *testing.T) { moveGuest(t, args, append(strings.Fields(args), "--sandbox="+box)) })
		}
	}
}

func moveGuest(t *testing.T, mode string, args []string) {
	dir := tempDir(t)
	share := dir + "/share"
	if err := os.MkdirAll(share+"/dir/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"stays", "moves", "leaves", "goes"} {
		if err := os.WriteFile(share+"/dir/"+file, []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args = append(args, "--shared-dir", share, "--migration-on-error=guest-error")
	here := startDaemon(t, nil, append(args, "--socket-path", dir+"/here")...)
	here.waitLine(waitingLine)
	c := connect(t, dir+"/here")
	node, fh := map[string]uint64{}, map[string]uint64{}
	d, err := c.Lookup(1, "dir")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"stays", "moves", "leaves", "goes"} {
		e, err := c.Lookup(d.NodeID, file)
		if err != nil {
			t.Fatal(err)
		}
		node[file] = e.NodeID
		if fh[file], err = c.Open(e.NodeID, unix.O_RDWR); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := c.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	here.wantStatus(exitOK)

	err = errors.Join(os.Rename(share+"/dir/moves", share+"/dir/sub/moved"), os.Rename(share+"/dir/leaves", dir+"/outside"),
		os.Remove(share+"/dir/goes"))
	if err != nil {
		t.Fatal(err)
	}
	there := startDaemon(t, nil, append(args, "--socket-path", dir+"/there")...)
	there.waitLine(waitingLine)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: dir + "/there", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := frontend.Connect(conn, frontend.Options{Queues: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.LoadState(state); err != nil {
		t.Fatal(err)
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	c = frontend.NewClient(f)
	for file := range node {
		b, err := c.Read(node[file], fh[file], 0, 100)
		if kept := file == "stays" || file == "moves" && strings.Contains(mode, "file-handles"); kept {
			if string(b) != file || err != nil {
				t.Errorf("what %s: %q, %v", file, b, err)
			}
			continue
		}
		if !errors.Is(err, unix.EBADF) {
			t.Errorf("what %s: %q, %v", file, b, err)
		}
		if _, err := c.Getattr(node[file]); !errors.Is(err, unix.ESTALE) {
			t.Errorf("what %s: GETATTR: %v", file, err)
		}
	}
	c.Close()
	there.wantStatus(exitOK)
	if said := strings.Join(there.said, "\n"); !strings.Contains(said, "leaves") || !strings.Contains(said, "goes") || strings.Contains(said, "stays") {
		t.Errorf("the log names other files than those that are lost:\n%s", said)
	}
}
