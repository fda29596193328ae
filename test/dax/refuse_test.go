package dax

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	forReading = fp.SetupMappingRead
	forWriting = fp.SetupMappingRead | fp.SetupMappingWrite
)

// put writes a file of pages, each filled with its number from 1 on, and looks it up.
func (s *share) put(name string, pages int) (node uint64) {
	s.t.Helper()
	var b []byte
	for i := range pages {
		b = append(b, bytes.Repeat([]byte{byte(i + 1)}, page)...)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return s.find(name)
}

func (s *share) find(name string) uint64 {
	s.t.Helper()
	e, err := s.Lookup(rootNode, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return e.NodeID
}

func (s *share) mustOpen(node uint64, flags uint32) uint64 {
	s.t.Helper()
	fh, err := s.Open(node, flags)
	if err != nil {
		s.t.Fatal(err)
	}
	return fh
}

// TestRefused sends wrong requests. Each gets its errno, and the mappings stay as
// they are.
func TestRefused(t *testing.T) {
	s := openShare(t, frontend.WindowOptions{})
	node, other := s.put("file", 16), s.put("other", 16)
	if err := os.Mkdir(filepath.Join(s.dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(s.dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	dir, fifo, link := s.find("dir"), s.find("fifo"), s.find("link")
	reader, writer := s.mustOpen(node, unix.O_RDONLY), s.mustOpen(node, unix.O_WRONLY)
	both, others := s.mustOpen(node, unix.O_RDWR), s.mustOpen(other, unix.O_RDWR)
	// There are two mappings: pages 0 to 3 of the window, and 8 to 11.
	for _, at := range []uint64{0, 8 * page} {
		if err := s.SetupMapping(node, anyHandle, 4*page, 4*page, at, forWriting); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Window.Mappings()

	check := func(name string, err error, want ...unix.Errno) {
		t.Helper()
		if !slices.ContainsFunc(want, func(e unix.Errno) bool { return errors.Is(err, e) }) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		s.settle()
		if got := s.Window.Mappings(); !slices.Equal(got, before) {
			t.Fatalf("%s: mappings are now %+v", name, got)
		}
		b := make([]byte, 4*page)
		for _, off := range []int64{0, 8 * page} {
			if _, err := s.Window.ReadAt(b, off); err != nil || b[0] != 5 || b[4*page-1] != 8 {
				t.Fatalf("%s: the window shows %d, %d, %v", name, b[0], b[4*page-1], err)
			}
		}
	}
	const top = 1 << 63
	for _, c := range []struct {
		name                              string
		node, fh                          uint64
		fileOffset, length, offset, flags uint64
		want                              unix.Errno
	}{
		{"window offset not aligned", node, anyHandle, 0, page, 32*page + 1, forReading, unix.EINVAL},
		{"file offset not aligned", node, anyHandle, 512, page, 32 * page, forReading, unix.EINVAL},
		{"length not aligned", node, anyHandle, 0, page + 1, 32 * page, forReading, unix.EINVAL},
		{"no length", node, anyHandle, 0, 0, 32 * page, forReading, unix.EINVAL},
		{"offset at the window's end", node, anyHandle, 0, page, windowSize, forReading, unix.EINVAL},
		{"over the window's end", node, anyHandle, 0, 2 * page, windowSize - page, forReading, unix.EINVAL},
		{"longer than the window", node, anyHandle, 0, windowSize + page, 0, forReading, unix.EINVAL},
		{"huge length", node, anyHandle, 0, top, 32 * page, forReading, unix.EINVAL},
		{"offset and length wrap around", node, anyHandle, 0, 2 * page, ^uint64(page - 1), forReading, unix.EINVAL},
		{"file offset and length wrap around", node, anyHandle, ^uint64(page - 1), 2 * page, 32 * page, forReading, unix.EINVAL},
		{"huge file offset", node, anyHandle, top, page, 32 * page, forReading, unix.EINVAL},
		{"neither read nor write", node, anyHandle, 0, page, 32 * page, 0, unix.EINVAL},
		{"unknown flag", node, anyHandle, 0, page, 32 * page, forReading | 1<<7, unix.EINVAL},
		{"forged handle", node, 12345, 0, page, 32 * page, forReading, unix.EBADF},
		{"handle of another file", node, others, 0, page, 32 * page, forReading, unix.EBADF},
		{"write with a handle for reading", node, reader, 0, page, 32 * page, forWriting, unix.EACCES},
		{"read with a handle for writing", node, writer, 0, page, 32 * page, forReading, unix.EACCES},
		{"forged node", 1 << 40, anyHandle, 0, page, 32 * page, forReading, unix.ESTALE},
		{"directory", dir, anyHandle, 0, page, 32 * page, forReading, unix.EISDIR},
		{"fifo", fifo, anyHandle, 0, page, 32 * page, forReading, unix.ENODEV},
		{"link", link, anyHandle, 0, page, 32 * page, forReading, unix.ENODEV},
		{"directory, with a file's handle", dir, both, 0, page, 32 * page, forReading, unix.EISDIR},
		{"the last file offset that there is", node, anyHandle, top - page, page, 32 * page, forReading, unix.EINVAL},
		{"the last but one", node, anyHandle, top - 2*page, page, 32 * page, forReading, unix.EIO},
		{"over a mapping", node, anyHandle, 0, 4 * page, 0, forReading, unix.EBUSY},
		{"over part of a mapping", node, anyHandle, 0, 4 * page, 2 * page, forReading, unix.EBUSY},
		{"over two mappings", node, anyHandle, 0, 12 * page, 0, forReading, unix.EBUSY},
		{"another file over a mapping", other, anyHandle, 4 * page, 4 * page, 0, forReading, unix.EBUSY},
		{"past the end of the file", node, anyHandle, 16 * page, page, 32 * page, forReading, unix.EIO},
		{"across the end of the file", node, anyHandle, 15 * page, 2 * page, 32 * page, forReading, unix.EIO},
	} {
		check(c.name, s.SetupMapping(c.node, c.fh, c.fileOffset, c.length, c.offset, c.flags), c.want)
	}
	first, second := fp.RemoveMappingOne{Len: 4 * page}, fp.RemoveMappingOne{Moffset: 8 * page, Len: 4 * page}
	for _, c := range []struct {
		name  string
		count uint32
		list  []fp.RemoveMappingOne
	}{
		{"count 0", 0, []fp.RemoveMappingOne{first}},
		{"count 0 of none", 0, nil},
		{"count 1 of none", 1, nil},
		{"a count that is too large", 3, []fp.RemoveMappingOne{first, second}},
		{"a count that overflows", 1 << 28, []fp.RemoveMappingOne{first}},
		{"the largest count", 1<<32 - 1, []fp.RemoveMappingOne{first}},
		{"part of a mapping", 1, []fp.RemoveMappingOne{{Len: page}}},
		{"end of a mapping", 1, []fp.RemoveMappingOne{{Moffset: page, Len: 3 * page}}},
		{"not aligned", 1, []fp.RemoveMappingOne{{Moffset: 1, Len: 4 * page}}},
		{"no length", 1, []fp.RemoveMappingOne{{}}},
		{"out of the window", 1, []fp.RemoveMappingOne{{Moffset: windowSize, Len: page}}},
		{"huge", 1, []fp.RemoveMappingOne{{Len: top}}},
		{"wraps around", 1, []fp.RemoveMappingOne{{Moffset: ^uint64(page - 1), Len: 2 * page}}},
		{"the second is wrong", 2, []fp.RemoveMappingOne{first, {Moffset: 9 * page, Len: page}}},
	} {
		check("REMOVEMAPPING, "+c.name, s.RemoveMappingCount(rootNode, c.count, c.list...), unix.EINVAL)
	}
	for _, cut := range []int{0, 8, 39} {
		b := fp.Bytes(&fp.SetupMappingIn{Fh: anyHandle, Len: page, Moffset: 32 * page, Flags: forReading})[:cut]
		_, err := s.Do(&frontend.Request{Op: fp.OpSetupMapping, NodeID: node, Body: b})
		check("short SETUPMAPPING", err, unix.EINVAL)
	}
	_, err := s.Do(&frontend.Request{Op: fp.OpRemoveMapping, NodeID: node, Body: []byte{1, 0}})
	check("short REMOVEMAPPING", err, unix.EINVAL)

	// All of these work, which shows that each request above was refused for
	// its own reason.
	for i, c := range []struct{ fh, flags uint64 }{{anyHandle, forReading}, {reader, forReading}, {both, forWriting}} {
		err := s.SetupMapping(node, c.fh, 0, page, 32*page, c.flags)
		if c.fh == reader && errors.Is(err, unix.EIO) {
			continue // QEMU maps no file that is open for reading only
		}
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Moffset: 32 * page, Len: page}); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := s.RemoveMapping(rootNode, first, second); err != nil {
		t.Error(err)
	}
	s.settle()
	if n := len(s.Window.Mappings()); n != 0 {
		t.Errorf("%d mappings", n)
	}
}

// TestReadOnly has a read-only share. No descriptor that a front-end could write to
// leaves the daemon, because QEMU maps everything for writing.
func TestReadOnly(t *testing.T) {
	readOnly := func(s *share) { s.cfg.ReadOnly = true }
	for _, opts := range []frontend.WindowOptions{{}, {HonorFlags: true}} {
		s := openShare(t, opts, readOnly)
		node := s.put("file", 4)
		s.probed()
		if err := s.SetupMapping(node, anyHandle, 0, page, 0, forWriting); !errors.Is(err, unix.EROFS) {
			t.Errorf("for writing: %v", err)
		}
		err := s.SetupMapping(node, anyHandle, 0, page, 0, forReading)
		s.settle()
		if mapped := len(s.Window.Mappings()) == 1; mapped != opts.HonorFlags || mapped != (err == nil) {
			t.Errorf("honest %v: for reading: %v, %+v", opts.HonorFlags, err, s.Window.Mappings())
		}
		if _, err := s.Window.WriteAt([]byte("x"), 0); !errors.Is(err, frontend.ErrFault) {
			t.Errorf("written: %v", err)
		}
	}
}

// TestNotAgreed sends SETUPMAPPING in a session whose INIT has not agreed on
// mappings.
func TestNotAgreed(t *testing.T) {
	s := openShare(t, frontend.WindowOptions{})
	node := s.put("file", 4)
	if err := s.Destroy(); err != nil {
		t.Fatal(err)
	}
	if err := s.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	if err := s.SetupMapping(node, anyHandle, 0, page, 0, forReading); err == nil {
		t.Error("mapped")
	}
	if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Len: page}); err == nil {
		t.Error("removed")
	}
}
