package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// fileHandle is the file handle of what is at path, as a state has it.
func fileHandle(t *testing.T, path string) []byte {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		t.Skipf("no file handles: %v", err)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(h.Type())), h.Bytes()...)
}

// forgery is a state as doc/migration.md describes it.
type forgery struct {
	b     bytes.Buffer
	w     *record.Writer
	nodes uint64
}

func newForgery(openFiles uint64) *forgery {
	f := &forgery{}
	f.w = record.NewWriter(&f.b)
	f.w.Bytes([]byte("govirtiofs-state\x01"))
	f.w.Uint(1, fp.KernelMinorVersion, uint64(fp.InitBigWrites), 1<<20, 1<<20, openFiles)
	return f
}

// add adds a node and opens it. path is below the share; without one the file handle is
// all there is.
func (f *forgery) add(node, fh uint64, kind uint32, path string, fileHandle []byte, flags uint64) {
	f.nodes++
	if f.w.Uint(1, node, 1, uint64(kind)); path == "" {
		f.w.Uint(0)
	} else {
		f.w.Uint(2)
		f.w.Bytes([]byte(path))
	}
	f.w.Bytes(fileHandle)
	f.w.Uint(2, fh, f.nodes, flags)
}

func (f *forgery) end(t *testing.T) []byte {
	t.Helper()
	f.w.Uint(0, 1000, 0, 1000, 0)
	if err := f.w.Flush(); err != nil {
		t.Fatal(err)
	}
	return f.b.Bytes()
}

// A state from a hostile host names files outside of the share by their file handles and
// otherwise. The daemon as it is shipped reads and changes none of them, in any sandbox.
func TestIntegrationForgedState(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		for _, args := range [][]string{
			nil, {"--readonly"}, {"--landlock=never"},
			{"--migration-mode=file-handles"},
			{"--migration-mode=file-handles", "--inode-file-handles=mandatory", "--landlock=never"},
			{"--migration-mode=file-handles", "--readonly"},
		} {
			t.Run(box+" "+strings.Join(args, " "), func(t *testing.T) { sendForged(t, append(args, "--sandbox="+box)) })
		}
	}
}

func sendForged(t *testing.T, args []string) {
	dir := tempDir(t)
	share := filepath.Join(dir, "share")
	for _, d := range []string{share, dir + "/other"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, content := range map[string]string{"share/file": "inside", "secret": "secret", "other/secret": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Only files of this test: a daemon that fails it writes to them.
	outside := []struct {
		path string
		kind uint32
	}{{dir + "/secret", unix.S_IFREG}, {dir + "/other/secret", unix.S_IFREG}, {dir + "/other", unix.S_IFDIR},
		{dir, unix.S_IFDIR}}
	for _, openFiles := range []uint64{1, 2} {
		f := newForgery(openFiles)
		f.add(2, 2, unix.S_IFREG, "file", fileHandle(t, share+"/file"), unix.O_RDONLY)
		f.add(3, 3, unix.S_IFREG, "file", fileHandle(t, share+"/file"), unix.O_RDWR|unix.O_TRUNC)
		number := uint64(10)
		for _, o := range outside {
			h := fileHandle(t, o.path)
			for _, path := range []string{"", "file", "../" + filepath.Base(o.path), o.path, "../../../../.." + o.path} {
				f.add(number, number, o.kind, path, h, unix.O_RDWR)
				number++
			}
		}
		d := startDaemon(t, nil, append(args, "--socket-path", dir+"/s", "--shared-dir", share, "--migration-on-error=guest-error")...)
		d.waitLine(waitingLine)
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: dir + "/s", Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		front, err := frontend.Connect(conn, frontend.Options{Queues: 3})
		if err != nil {
			t.Fatal(err)
		}
		if err := front.LoadState(f.end(t)); err != nil {
			t.Fatal(err)
		}
		if err := front.Start(); err != nil {
			t.Fatal(err)
		}
		c := frontend.NewClient(front)
		if b, err := c.Read(2, 2, 0, 100); string(b) != "inside" || err != nil {
			t.Errorf("the share's file reads %q, %v", b, err)
		}
		for n := uint64(10); n < number; n++ {
			useForged(t, c, n)
		}
		_, err = c.Write(3, 3, 0, []byte("INSIDE"))
		if readOnly := strings.Contains(strings.Join(args, " "), "--readonly"); readOnly != (err != nil) {
			t.Errorf("write to the share's file: %v", err)
		}
		c.Close()
		d.wantStatus(exitOK)
		for _, file := range []string{dir + "/secret", dir + "/other/secret"} {
			b, err := os.ReadFile(file)
			var st unix.Stat_t
			if err == nil {
				err = unix.Stat(file, &st)
			}
			if string(b) != "secret" || err != nil || st.Mode != unix.S_IFREG|0o600 || st.Nlink != 1 {
				t.Errorf("%s has %q, mode %o, %d links, %v", file, b, st.Mode, st.Nlink, err)
			}
		}
		list, _ := os.ReadDir(dir)
		other, _ := os.ReadDir(dir + "/other")
		if len(list) != 3 || len(other) != 1 {
			t.Errorf("outside of the share are %v and %v", list, other)
		}
		if err := os.WriteFile(share+"/file", []byte("inside"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// useForged does with a node and its open file what would show that there is one.
func useForged(t *testing.T, c *frontend.Client, n uint64) {
	t.Helper()
	_, statErr := c.Getattr(n)
	fh, openErr := c.Open(n, unix.O_RDONLY)
	b, readErr := c.Read(n, n, 0, 100)
	_, writeErr := c.Write(n, n, 0, []byte("written"))
	_, lookupErr := c.Lookup(n, "secret")
	_, listErr := c.Readdir(n, n, 0, 4096, false)
	_, makeErr := c.Mknod(n, "made", unix.S_IFREG|0o644, 0)
	_, modeErr := c.Setattr(n, fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o777})
	_, linkErr := c.Link(n, 1, "linked")
	unlinkErr := c.Unlink(n, "secret")
	for what, err := range map[string]error{"GETATTR": statErr, "OPEN": openErr, "READ": readErr, "WRITE": writeErr, "LOOKUP": lookupErr,
		"READDIR": listErr, "MKNOD": makeErr, "SETATTR": modeErr, "LINK": linkErr, "UNLINK": unlinkErr} {
		if err == nil {
			t.Error(fmt.Sprintf("node %d: %s", n, what), fh, string(b))
		}
	}
}
