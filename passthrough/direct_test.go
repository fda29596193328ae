package passthrough

import (
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// openDirect makes a file and opens it with O_DIRECT.
func openDirect(t *testing.T, content string) (g *guest, node, fh uint64) {
	t.Helper()
	g = shareDir(t, diskDir(t), nil, 0).guest()
	g.write("f", content)
	node = g.lookup(fp.RootID, "f")
	out, errno := g.tryOpen(node, unix.O_RDWR|unix.O_DIRECT)
	if errno != 0 {
		t.Skip("no direct I/O in the temporary directory: ", errno)
	}
	return g, node, out.Fh
}

// page is a buffer that direct I/O takes.
func page(t *testing.T) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, hostPage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

// TestDirectPages: what comes from the guest's page cache through a file that is open with
// O_DIRECT goes through the host's, and takes one descriptor more as long as that is open.
func TestDirectPages(t *testing.T) {
	g, node, fh := openDirect(t, strings.Repeat("x", 1168))
	before, opens := g.fs.fds.used.Load(), g.fs.fds.kept.Load()
	const direct = unix.O_RDWR | unix.O_DIRECT
	for _, c := range []struct {
		what string
		in   fp.WriteIn
		data string
		want unix.Errno
	}{
		{"a page of a mapping", fp.WriteIn{WriteFlags: fp.WriteCache, Flags: direct}, strings.Repeat("m", 1168), 0},
		{"O_DIRECT taken off", fp.WriteIn{Flags: unix.O_RDWR, Offset: 3}, "off", 0},
		{"the program's mistake", fp.WriteIn{Flags: direct, Offset: 3}, "bad", unix.EINVAL},
	} {
		c.in.Fh = fh
		n, errno := g.writeAt(node, c.in, c.data)
		if errno != c.want || errno == 0 && n != len(c.data) {
			t.Errorf("%s: %d, %v, want %v", c.what, n, errno, c.want)
		}
	}
	want := "mmmoff" + strings.Repeat("m", 1162)
	if got := g.content("f"); got != want {
		t.Errorf("the file has %.20q", got)
	}
	if got, errno := g.readAt(node, fh, 1, 8); got != want[1:9] || errno != 0 {
		t.Errorf("O_DIRECT taken off: %q, %v", got, errno)
	}
	to, toFh := g.openName("to", "", unix.O_RDWR|unix.O_DIRECT)
	copied, errno := g.fs.CopyFileRange(g.on(node), &fp.CopyFileRangeIn{FhIn: fh, OffIn: 3, NodeIDOut: to, FhOut: toFh, Len: 3})
	if copied != 3 || errno != 0 || g.content("to") != "off" {
		t.Errorf("copy: %d, %v", copied, errno)
	}
	wantErrno(t, "release", g.release(to, toFh), 0)
	g.fs.Forget(nil, to, 1)
	if fds, n := g.fs.fds.used.Load(), g.fs.fds.kept.Load(); fds != before+1 || n != opens+1 {
		t.Errorf("%d and %d descriptors, want %d and %d", fds, n, before+1, opens+1)
	}
	f, errno := g.fs.openFiles.of(node, fh)
	wantErrno(t, "open file", errno, 0)
	if flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0); err != nil || flags&unix.O_DIRECT == 0 {
		t.Errorf("direct I/O has ended: %#x, %v", flags, err)
	}
	g.fs.openFiles.release(f)
	wantErrno(t, "release", g.release(node, fh), 0)
	if fds, n := g.fs.fds.used.Load(), g.fs.fds.kept.Load(); fds != before-1 || n != opens-1 {
		t.Errorf("%d and %d descriptors are left, want %d and %d", fds, n, before-1, opens-1)
	}
}

// TestDirectWholePages: whole pages that the host's direct I/O refuses, here because of
// where the memory is, go through the page cache.
func TestDirectWholePages(t *testing.T) {
	g, node, fh := openDirect(t, strings.Repeat("r", hostPage))
	mem := make([]byte, 3*hostPage)
	off := 1 + (hostPage - int(uintptr(unsafe.Pointer(&mem[0]))%hostPage))
	buf := mem[off : off+hostPage]
	const direct = unix.O_RDWR | unix.O_DIRECT
	n := 0
	errno := g.patient(node, func(r *server.Request) (errno unix.Errno) {
		n, errno = g.fs.Read(r, &fp.ReadIn{Fh: fh, Size: hostPage, Flags: direct}, vector(buf, hostPage))
		return errno
	})
	if n != hostPage || errno != 0 || buf[0] != 'r' || buf[hostPage-1] != 'r' {
		t.Errorf("read: %d, %v", n, errno)
	}
	buf[0] = 'w'
	errno = g.patient(node, func(r *server.Request) (errno unix.Errno) {
		n, errno = g.fs.Write(r, &fp.WriteIn{Fh: fh, Size: hostPage, Flags: direct}, vector(buf, hostPage))
		return errno
	})
	if n != hostPage || errno != 0 || g.content("f")[:2] != "wr" {
		t.Errorf("write: %d, %v", n, errno)
	}
}

// TestDirectWithoutDescriptors: when no other descriptor can be had the data arrives all
// the same.
func TestDirectWithoutDescriptors(t *testing.T) {
	g, node, fh := openDirect(t, "")
	opens := g.fs.fds.kept.Load()
	g.fs.fds.kept.Store(int64(g.fs.cfg.MaxFDs))
	n, errno := g.writeAt(node, fp.WriteIn{Fh: fh, WriteFlags: fp.WriteCache, Flags: unix.O_RDWR | unix.O_DIRECT}, "data")
	g.fs.fds.kept.Store(opens)
	if n != 4 || errno != 0 || g.content("f") != "data" {
		t.Errorf("%d, %v", n, errno)
	}
	wantErrno(t, "release", g.release(node, fh), 0)
}

// TestDirectCalls: a direct request costs what it did, and one for the page cache too, once
// the open file has its second descriptor.
func TestDirectCalls(t *testing.T) {
	g, node, fh := openDirect(t, strings.Repeat("x", hostPage))
	mem := page(t)
	r := g.on(node)
	r.MayWait = true
	const direct = unix.O_RDWR | unix.O_DIRECT
	wantCalls(t, "direct READ", 1, func() { _, _ = g.fs.Read(r, &fp.ReadIn{Fh: fh, Size: hostPage, Flags: direct}, vector(mem, hostPage)) })
	wantCalls(t, "direct WRITE", 1, func() {
		_, _ = g.fs.Write(r, &fp.WriteIn{Fh: fh, Size: hostPage, Flags: direct}, vector(mem, hostPage))
	})
	cached := fp.WriteIn{Fh: fh, Flags: direct, WriteFlags: fp.WriteCache}
	wantCalls(t, "the first page", 2, func() { g.writeAt(node, cached, "x") })
	wantCalls(t, "another page", 1, func() { g.writeAt(node, cached, "x") })
}
