package passthrough

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

const daxFlags = fp.InitMapAlignment | fp.InitHasInodeDAX

// window is a dax.Local with the restrictions of a front-end.
type window struct {
	*dax.Local
	writes  bool          // maps everything for writing, and in no other way
	refuses bool          // past the end of files
	answer  chan struct{} // if not nil, nothing is answered until it is closed
}

func (w *window) Map(fd int, m dax.Mapping) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if w.refuses && m.FileOffset+m.Length > uint64(st.Size) {
		return unix.EINVAL
	}
	m.Writable = m.Writable || w.writes
	if w.answer != nil {
		<-w.answer
	}
	return w.Local.Map(fd, m)
}

// withWindow gives a share a window of 16 MiB.
func withWindow(t testing.TB, w *window, edit func(*Config)) (*guest, *dax.Table) {
	t.Helper()
	return windowFor(t, w, edit, daxFlags)
}

// windowFor is withWindow for a guest that asks for flags.
func windowFor(t testing.TB, w *window, edit func(*Config), flags fp.InitFlags) (*guest, *dax.Table) {
	t.Helper()
	var err error
	if w.Local, err = dax.NewLocal(16 << 20); err != nil {
		t.Fatal(err)
	}
	table := dax.NewTable(w.Size(), DAXUnit)
	table.Attach(w)
	s := newShare(t, func(c *Config) {
		c.DAX = &DAX{Table: table}
		if edit != nil {
			edit(c)
		}
	}, flags)
	t.Cleanup(func() {
		s.fs.Destroy()
		table.Wait()
		if left := table.Mappings(); len(left) != 0 {
			t.Errorf("left after DESTROY: %v", left)
		}
		_ = w.Close()
	})
	want := dax.Traits{ReadOnly: !w.writes, PastEnd: !w.refuses && s.fs.cfg.DAX.Stretch == nil}
	if err := table.Probe(s.fs.cfg.DAX.Stretch == nil); err != nil || table.Traits() != want { // INIT's, or else this one
		t.Fatalf("probe: %v, %+v, want %+v", err, table.Traits(), want)
	}
	return s.guest(), table
}

func (g *guest) setup(node uint64, in fp.SetupMappingIn) unix.Errno {
	return g.patient(node, func(r *server.Request) unix.Errno { return g.fs.SetupMapping(r, &in) })
}

// remove removes ranges that start at offsets and are a unit long.
func (g *guest) remove(offsets ...uint64) unix.Errno {
	var list []fp.RemoveMappingOne
	for _, o := range offsets {
		list = append(list, fp.RemoveMappingOne{Moffset: o, Len: DAXUnit})
	}
	return g.patient(fp.RootID, func(r *server.Request) unix.Errno { return g.fs.RemoveMapping(r, list) })
}

// linux is the request that Linux makes.
func linux(moffset, foffset uint64, write bool) fp.SetupMappingIn {
	in := fp.SetupMappingIn{Fh: noFh, Foffset: foffset, Len: DAXUnit, Moffset: moffset, Flags: fp.SetupMappingRead}
	if write {
		in.Flags |= fp.SetupMappingWrite
	}
	return in
}

func TestMapping(t *testing.T) {
	w := &window{}
	g, table := withWindow(t, w, nil)
	g.write("f", "content")
	node := g.lookup(fp.RootID, "f")
	wantErrno(t, "mapping", g.setup(node, linux(DAXUnit, 0, false)), 0)
	b := w.Bytes()[DAXUnit:]
	if string(b[:8]) != "content\x00" {
		t.Errorf("the guest sees %q", b[:8])
	}
	// Linux asks for the same once more before it writes.
	if !table.Mappings()[0].Writable {
		t.Error("not writable from the start")
	}
	wantErrno(t, "upgrade", g.setup(node, linux(DAXUnit, 0, true)), 0)
	b[0] = 'C'
	f, err := os.OpenFile(g.path("f"), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Repeat("+", 5000)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(g.path("f")); err != nil || !bytes.HasPrefix(got, []byte("Content+")) || b[5006] != '+' || b[5007] != 0 {
		t.Errorf("%v; on the host %q, in the guest %q", err, got[:8], b[5000:5010])
	}
	// A removed name is still mapped, and the file that takes it is another.
	if err := os.Remove(g.path("f")); err != nil {
		t.Fatal(err)
	}
	g.write("f", "another")
	wantErrno(t, "another file", g.setup(g.lookup(fp.RootID, "f"), linux(2*DAXUnit, 0, false)), 0)
	if b[0] != 'C' || b[DAXUnit] != 'a' {
		t.Errorf("%q %q", b[0], b[DAXUnit])
	}
	wantErrno(t, "taken range", g.setup(g.lookup(fp.RootID, "f"), linux(DAXUnit, 0, false)), unix.EBUSY)
	wantErrno(t, "removal", g.remove(DAXUnit, 2*DAXUnit, 3*DAXUnit), 0)
	if n := len(table.Mappings()); n != 0 {
		t.Error(n, "mappings are left")
	}
}

func TestMappingRefused(t *testing.T) {
	g, table := withWindow(t, &window{}, nil)
	g.write("f", "content")
	if err := os.Mkdir(g.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(g.path("p"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(fp.RootID, "f")
	other, otherFh := g.openName("g", "x", unix.O_RDWR)
	defer g.release(other, otherFh)
	fhs := map[uint32]uint64{}
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
		fhs[flags] = g.open(node, flags)
		defer g.release(node, fhs[flags])
	}
	const most = ^uint64(0)
	for what, c := range map[string]struct {
		node uint64
		in   fp.SetupMappingIn
		want unix.Errno
	}{
		"no access":          {node, fp.SetupMappingIn{Fh: noFh, Len: DAXUnit}, unix.EINVAL},
		"unknown flag":       {node, fp.SetupMappingIn{Fh: noFh, Len: DAXUnit, Flags: 7}, unix.EINVAL},
		"empty":              {node, fp.SetupMappingIn{Fh: noFh, Flags: 1}, unix.EINVAL},
		"odd length":         {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit + 1}, unix.EINVAL},
		"one page":           {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: 4096}, unix.EINVAL},
		"odd place":          {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit, Moffset: 4096}, unix.EINVAL},
		"odd file offset":    {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit, Foffset: 4096}, unix.EINVAL},
		"behind the window":  {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit, Moffset: 16 << 20}, unix.EINVAL},
		"out of the window":  {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: 8 * DAXUnit, Moffset: DAXUnit}, unix.EINVAL},
		"huge":               {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: most &^ (DAXUnit - 1)}, unix.EINVAL},
		"huge place":         {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit, Moffset: most &^ (DAXUnit - 1)}, unix.EINVAL},
		"huge file offset":   {node, fp.SetupMappingIn{Fh: noFh, Flags: 2, Len: DAXUnit, Foffset: most &^ (DAXUnit - 1)}, unix.EINVAL},
		"behind the file":    {node, linux(0, DAXUnit, false), unix.EIO},
		"forged node":        {1 << 40, linux(0, 0, false), unix.ESTALE},
		"directory":          {g.lookup(fp.RootID, "d"), linux(0, 0, false), unix.EISDIR},
		"FIFO":               {g.lookup(fp.RootID, "p"), linux(0, 0, false), unix.ENODEV},
		"forged fh":          {node, fp.SetupMappingIn{Fh: 1 << 40, Flags: 2, Len: DAXUnit}, unix.EBADF},
		"fh of another file": {node, fp.SetupMappingIn{Fh: otherFh, Flags: 2, Len: DAXUnit}, unix.EBADF},
		"O_WRONLY":           {node, fp.SetupMappingIn{Fh: fhs[unix.O_WRONLY], Flags: 2, Len: DAXUnit}, unix.EACCES},
		"write by O_WRONLY":  {node, fp.SetupMappingIn{Fh: fhs[unix.O_WRONLY], Flags: 1, Len: DAXUnit}, unix.EACCES},
		"write by O_RDONLY":  {node, fp.SetupMappingIn{Fh: fhs[unix.O_RDONLY], Flags: 3, Len: DAXUnit}, unix.EACCES},
	} {
		wantErrno(t, what, g.setup(c.node, c.in), c.want)
		if have := table.Mappings(); len(have) != 0 {
			t.Fatalf("%s: mapped %v", what, have)
		}
	}
	wantErrno(t, "odd removal", g.patient(node, func(r *server.Request) unix.Errno {
		return g.fs.RemoveMapping(r, []fp.RemoveMappingOne{{Moffset: 0, Len: DAXUnit}, {Moffset: 4096, Len: DAXUnit}})
	}), unix.EINVAL)

	// An open file gives no more than it is open for.
	in := fp.SetupMappingIn{Fh: fhs[unix.O_RDONLY], Flags: fp.SetupMappingRead, Len: DAXUnit}
	wantErrno(t, "O_RDONLY", g.setup(node, in), 0)
	if table.Mappings()[0].Writable {
		t.Error("writable by an open file for reading")
	}
	in = fp.SetupMappingIn{Fh: fhs[unix.O_RDWR], Flags: 3, Len: DAXUnit, Moffset: DAXUnit}
	wantErrno(t, "O_RDWR", g.setup(node, in), 0)
}

func TestMappingWithoutWindow(t *testing.T) {
	g := newShare(t, nil, daxFlags).guest()
	g.write("f", "content")
	node := g.lookup(fp.RootID, "f")
	wantErrno(t, "mapping", g.setup(node, linux(0, 0, false)), unix.ENOSYS)
	wantErrno(t, "removal", g.remove(0), unix.ENOSYS)

	g, table := withWindow(t, &window{}, nil)
	g.write("f", "content")
	node = g.lookup(fp.RootID, "f")
	table.Attach(nil) // the front-end is gone
	wantErrno(t, "mapping", g.setup(node, linux(0, 0, false)), unix.EIO)
}

// TestMappingReadOnly: a share that is not to be changed is never mapped for writing.
func TestMappingReadOnly(t *testing.T) {
	w := &window{}
	g, table := withWindow(t, w, func(c *Config) { c.ReadOnly = true })
	g.write("f", "content")
	node := g.lookup(fp.RootID, "f")
	wantErrno(t, "for writing", g.setup(node, linux(0, 0, true)), unix.EROFS)
	wantErrno(t, "for reading", g.setup(node, linux(0, 0, false)), 0)
	if table.Mappings()[0].Writable {
		t.Error("writable")
	}
	if g.daxFlag("f") == 0 {
		t.Error("not announced")
	}
}

// TestMappingProgram: what the guest only reads can be executed on the host.
func TestMappingProgram(t *testing.T) {
	g, table := withWindow(t, &window{}, nil)
	if err := os.WriteFile(g.path("prog"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(fp.RootID, "prog")
	wantErrno(t, "for reading", g.setup(node, linux(0, 0, false)), 0)
	if table.Mappings()[0].Writable {
		t.Error("writable")
	}
	wantErrno(t, "for writing", g.setup(node, linux(0, 0, true)), 0) // Local can, in place
	if !table.Mappings()[0].Writable {
		t.Error("not writable after all")
	}
}

// daxFlag is fp.AttrDAX, if LOOKUP and GETATTR have it.
func (g *guest) daxFlag(n string) uint32 {
	g.t.Helper()
	var entry fp.EntryOut
	if errno := g.fs.Lookup(g.on(fp.RootID), name(n), &entry); errno != 0 {
		g.t.Fatal(errno)
	}
	var attr fp.AttrOut
	if errno := g.fs.Getattr(g.on(entry.NodeID), &fp.GetattrIn{}, &attr); errno != 0 {
		g.t.Fatal(errno)
	}
	if attr.Attr.Flags != entry.Attr.Flags {
		g.t.Errorf("%s: LOOKUP has flags %#x, GETATTR %#x", n, entry.Attr.Flags, attr.Attr.Flags)
	}
	return attr.Attr.Flags & fp.AttrDAX
}

// stretched is a Stretcher that is not used.
type stretched struct{}

func (stretched) Stretch(int) (int, error) { return -1, unix.ENOSYS }

// TestAnnounced lists the files that the guest is told to map, by what the window can do.
func TestAnnounced(t *testing.T) {
	files := map[string]struct {
		size int64
		mode uint32
	}{
		"empty": {0, 0o644}, "small": {1000, 0o644}, "odd": {DAXUnit + 1, 0o644}, "even": {2 * DAXUnit, 0o644}, "prog": {2 * DAXUnit, 0o755},
	}
	for what, c := range map[string]struct {
		w    window
		edit func(*Config)
		want string // in the order of sizes
	}{
		"able":              {window{}, nil, "empty small odd even prog "},
		"able, large files": {window{}, func(c *Config) { c.DAX.MinSize = 1001 }, "odd even prog "},
		"able, every":       {window{}, func(c *Config) { c.DAX.MinSize, c.DAX.Every = 1001, true }, "empty small odd even prog "},
		"able, read-only":   {window{}, func(c *Config) { c.ReadOnly = true }, "empty small odd even prog "},
		"able, some":        {window{}, func(c *Config) { c.DAX.Include = []string{"e*", "/prog", "dir/odd"} }, "empty even prog "},
		"able, others":      {window{}, func(c *Config) { c.DAX.Include, c.DAX.Exclude = []string{"**/e*", "odd"}, []string{"even"} }, "empty odd "},
		"every, not some":   {window{}, func(c *Config) { c.DAX.Every, c.DAX.Exclude = true, []string{"*d*", "prog"} }, "empty small even "},
		"QEMU":              {window{writes: true, refuses: true}, nil, "even "},
		"QEMU, every":       {window{writes: true, refuses: true}, func(c *Config) { c.DAX.Every = true }, "even "},
		"QEMU, stretched":   {window{writes: true, refuses: true}, func(c *Config) { c.DAX.Stretch = stretched{} }, "empty small odd even "},
		"QEMU, read-only":   {window{writes: true, refuses: true}, func(c *Config) { c.ReadOnly = true }, ""},
	} {
		g, _ := withWindow(t, &c.w, c.edit)
		got := ""
		for _, n := range []string{"empty", "small", "odd", "even", "prog"} {
			if err := os.WriteFile(g.path(n), nil, os.FileMode(files[n].mode)); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(g.path(n), files[n].size); err != nil {
				t.Fatal(err)
			}
			if g.daxFlag(n) != 0 {
				got += n + " "
			}
		}
		if got != c.want {
			t.Errorf("%s: announced %q, want %q", what, got, c.want)
		}
		if g.daxFlag(".") != 0 {
			t.Error("a directory was announced")
		}
	}
}

// TestShortFile: without a way to map past the end, the front-end is not even asked: QEMU
// makes an empty file as long as the mapping.
func TestShortFile(t *testing.T) {
	g, table := withWindow(t, &window{writes: true, refuses: true}, nil)
	for n, size := range map[string]int64{"empty": 0, "odd": DAXUnit + 1} {
		g.write(n, "")
		if err := os.Truncate(g.path(n), size); err != nil {
			t.Fatal(err)
		}
		node := g.lookup(fp.RootID, n)
		wantErrno(t, n, g.setup(node, linux(0, uint64(size)&^(DAXUnit-1), false)), unix.EIO)
		if len(table.Mappings()) != 0 {
			t.Error("mapped")
		}
	}
}
