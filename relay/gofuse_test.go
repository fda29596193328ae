package relay

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// goFuse is a program that was not written for this test: go-fuse's loopback file system, which is told its socket by
// the mount point /dev/fd/N.
type goFuse struct{ dir string }

// Mount implements Source.
func (s goFuse) Mount(context.Context) (*Mounted, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	root, err := gofs.NewLoopbackRoot(s.dir)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { // NewServer returns when INIT was answered
		defer close(done)
		program, err := gofuse.NewServer(gofs.NewNodeFS(root, &gofs.Options{}), fmt.Sprintf("/dev/fd/%d", pair[1]), &gofuse.MountOptions{
			DisableSplice: true}) // splice(2) cuts a long reply into packets; package program keeps programs from it
		if err == nil {
			program.Serve()
		}
	}()
	return &Mounted{Socket: os.NewFile(uintptr(pair[0]), "pair"), Type: "fuse.loopback", Done: done}, nil
}

// TestGoFuse: go-fuse's loopback file system, which knows nothing of a relay, is read and changed by a guest.
func TestGoFuse(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 3<<20+5)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	source := goFuse{dir}
	g := newGuestOf(t, source, Options{})
	e := g.lookup(1, "data")
	fh := g.open(fp.OpOpen, e.NodeID, unix.O_RDONLY)
	var got []byte
	for {
		b := g.read(e.NodeID, fh, uint64(len(got)), MaxData)
		if got = append(got, b...); len(b) < MaxData {
			break
		}
	}
	if !bytes.Equal(got, data) {
		t.Errorf("READ of %d bytes, not of %d, or other ones", len(got), len(data))
	}
	for _, op := range []fp.Opcode{fp.OpReaddir, fp.OpReaddirplus} {
		dh := g.open(fp.OpOpendir, 1, 0)
		var names []string
		for _, l := range g.list(op, 1, dh, 4096) {
			if !strings.HasPrefix(l.name, ".") {
				names = append(names, l.name)
			}
		}
		slices.Sort(names)
		if len(names) != 501 || names[0] != "data" || names[500] != "file499" {
			t.Errorf("%s: %d names", op, len(names))
		}
		g.must(fp.OpReleasedir, 1, 0, fp.Bytes(&fp.ReleaseIn{Fh: dh}))
	}
	made := as[fp.CreateOut](g.must(fp.OpCreate, 1, 144, fp.Bytes(&fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}), name("new")))
	w := as[fp.WriteOut](g.must(fp.OpWrite, made.Entry.NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: made.Open.Fh, Offset: 2, Size: MaxData}), data[:MaxData]))
	if w.Size != MaxData {
		t.Errorf("WRITE of %d bytes", w.Size)
	}
	g.must(fp.OpSetattr, made.Entry.NodeID, 104, fp.Bytes(&fp.SetattrIn{Valid: fp.FattrSize, Size: 100}))
	g.must(fp.OpRelease, made.Entry.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: made.Open.Fh}))
	g.must(fp.OpMkdir, 1, 128, fp.Bytes(&fp.MkdirIn{Mode: 0o755}), name("sub"))
	sub := g.lookup(1, "sub")
	g.must(fp.OpRename, 1, 0, fp.Bytes(&fp.RenameIn{NewDir: sub.NodeID}), name("new"), name("moved"))
	g.must(fp.OpUnlink, 1, 0, name("file000"))
	if b, err := os.ReadFile(filepath.Join(dir, "sub/moved")); err != nil || !bytes.Equal(b, append([]byte{0, 0}, data[:98]...)) {
		t.Errorf("on the host the new file has %x, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file000")); !os.IsNotExist(err) {
		t.Errorf("the removed file: %v", err)
	}
}
