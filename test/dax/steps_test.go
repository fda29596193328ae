package dax

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// step is one random operation with its weight.
type step struct {
	name   string
	weight int
	run    func(*world)
}

var steps = []step{
	{"create", 4, (*world).create},
	{"look up", 10, (*world).lookup},
	{"open", 10, (*world).open},
	{"release", 10, (*world).release},
	{"WRITE", 40, (*world).fuseWrite},
	{"READ", 40, (*world).fuseRead},
	{"SETATTR size", 8, (*world).fuseTruncate},
	{"UNLINK", 1, (*world).fuseUnlink},
	{"RENAME", 2, (*world).fuseRename},
	{"host write", 40, (*world).hostWrite},
	{"host read", 10, (*world).hostRead},
	{"host truncate", 8, (*world).hostTruncate},
	{"host unlink", 1, (*world).hostUnlink},
	{"host rename", 2, (*world).hostRename},
	{"host replace", 1, (*world).hostReplace},
	{"SETUPMAPPING", 50, (*world).setup},
	{"SETUPMAPPING again", 10, (*world).setupAgain},
	{"REMOVEMAPPING", 25, (*world).remove},
	{"REMOVEMAPPING of anything", 5, (*world).removeAny},
	{"window read", 100, (*world).windowRead},
	{"window write", 60, (*world).windowWrite},
}

// create makes a file, on either side.
func (w *world) create() {
	if len(w.files) >= mostFile {
		return
	}
	w.ids++
	f := &file{id: w.ids, name: fmt.Sprintf("f%d", w.ids)}
	data := w.random(w.r.IntN(mostSize))
	if w.r.IntN(3) == 0 {
		data = data[:len(data)&^(page-1)]
	}
	if w.r.IntN(2) == 0 {
		w.must(os.WriteFile(w.path(f.name), data, 0o644))
	} else {
		out, err := w.s.Create(rootNode, f.name, unix.O_RDWR, 0o644)
		w.must(err)
		f.node = out.Entry.NodeID
		if len(data) > 0 {
			n, err := w.s.Write(f.node, out.Open.Fh, 0, data)
			w.must(err)
			data = data[:n]
		}
		w.must(w.s.Release(f.node, out.Open.Fh))
	}
	w.attach(f, data)
}

// attach adds a file that has a name to the model.
func (w *world) attach(f *file, data []byte) {
	host, err := os.OpenFile(w.path(f.name), os.O_RDWR, 0)
	w.must(err)
	f.host, f.data = host, data
	w.files = append(w.files, f)
	w.note("%v", f)
}

func (w *world) lookup() {
	f := w.pick()
	if f == nil {
		return
	}
	e, err := w.s.Lookup(rootNode, f.name)
	w.must(err)
	if int(e.Attr.Size) != len(f.data) {
		w.fail("%v: LOOKUP says %#x bytes", f, e.Attr.Size)
	}
	f.node, f.moved = e.NodeID, false
}

// known is a file whose node the guest knows and which is not stale.
func (w *world) known() *file {
	f := w.pick()
	if f == nil {
		return nil
	}
	if f.node == 0 || f.moved {
		w.lookupOf(f)
	}
	return f
}

func (w *world) lookupOf(f *file) {
	e, err := w.s.Lookup(rootNode, f.name)
	w.must(err)
	f.node, f.moved = e.NodeID, false
}

func (w *world) open() {
	f := w.known()
	if f == nil || len(w.handles) >= 12 {
		return
	}
	h := handle{file: f, node: f.node, write: w.r.IntN(3) > 0}
	flags := uint32(unix.O_RDONLY)
	if h.write {
		flags = unix.O_RDWR
	}
	var err error
	h.fh, err = w.s.Open(f.node, flags)
	w.must(err)
	w.handles = append(w.handles, h)
	w.note("open %v, write %v: %d", f, h.write, h.fh)
}

func (w *world) release() {
	if len(w.handles) < 4 {
		return
	}
	i := w.r.IntN(len(w.handles))
	h := w.handles[i]
	w.must(w.s.Release(h.node, h.fh))
	w.handles = append(w.handles[:i], w.handles[i+1:]...)
	w.note("release %d", h.fh)
}

// handleFor is a random open file, one to write to if write is set.
func (w *world) handleFor(write bool) (handle, bool) {
	for range 4 {
		if len(w.handles) == 0 {
			break
		}
		if h := w.handles[w.r.IntN(len(w.handles))]; h.write || !write {
			return h, true
		}
	}
	return handle{}, false
}

func (w *world) fuseWrite() {
	h, ok := w.handleFor(true)
	if !ok {
		return
	}
	off, n := w.spot(mostSize, 3*page)
	b := w.random(n)
	w.note("WRITE %#x bytes at %#x of %v", n, off, h.file)
	done, err := w.s.Write(h.node, h.fh, uint64(off), b)
	if err != nil || done != n {
		w.fail("WRITE: %d, %v", done, err)
	}
	h.file.write(off, b)
}

func (w *world) fuseRead() {
	h, ok := w.handleFor(false)
	if !ok {
		return
	}
	off, n := w.spot(mostSize, 3*page)
	b, err := w.s.Read(h.node, h.fh, uint64(off), n)
	want := h.file.data[min(off, len(h.file.data)):min(off+n, len(h.file.data))]
	if err != nil || len(b) != len(want) || difference(b, want) != "" {
		w.fail("READ %#x bytes at %#x of %v: %d, %v%s", n, off, h.file, len(b), err, difference(b, want[:min(len(b), len(want))]))
	}
}

// newSize is a new size for a file, often a whole number of pages.
func (w *world) newSize() int {
	n := w.r.IntN(mostSize + 1)
	if w.r.IntN(3) == 0 {
		n &^= page - 1
	}
	return n
}

func (w *world) fuseTruncate() {
	f := w.known()
	if f == nil {
		return
	}
	n := w.newSize()
	w.note("SETATTR size %#x of %v", n, f)
	a, err := w.s.Setattr(f.node, fp.SetattrIn{Valid: fp.FattrSize, Size: uint64(n)})
	if err != nil || int(a.Size) != n {
		w.fail("SETATTR of %v: %v, %#x", f, err, a.Size)
	}
	f.resize(n)
}

func (w *world) fuseUnlink() {
	f := w.known()
	if f == nil {
		return
	}
	w.note("UNLINK %v", f)
	w.must(w.s.Unlink(rootNode, f.name))
	w.drop(f)
}

// fuseRename gives a file a new name, or the name of another one.
func (w *world) fuseRename() {
	f, over := w.known(), w.known()
	if f == nil {
		return
	}
	w.note("RENAME %v over %v", f, over)
	if f == over || w.r.IntN(2) == 0 {
		w.ids++
		name := fmt.Sprintf("r%d", w.ids)
		w.must(w.s.Rename(rootNode, f.name, rootNode, name, 0))
		f.name = name
		return
	}
	w.must(w.s.Rename(rootNode, f.name, rootNode, over.name, 0))
	name := over.name
	w.drop(over)
	f.name = name
}

func (w *world) hostWrite() {
	f := w.pick()
	if len(w.lost) > 0 && w.r.IntN(10) == 0 {
		f = w.lost[w.r.IntN(len(w.lost))]
	}
	if f == nil {
		return
	}
	off, n := w.spot(mostSize, 3*page)
	b := w.random(n)
	w.note("host writes %#x bytes at %#x of %v", n, off, f)
	_, err := f.host.WriteAt(b, int64(off))
	w.must(err)
	f.write(off, b)
}

func (w *world) hostRead() {
	if f := w.pick(); f != nil {
		w.checkFile(f)
	}
}

func (w *world) hostTruncate() {
	f := w.pick()
	if f == nil {
		return
	}
	n := w.newSize()
	w.note("host truncates %v to %#x", f, n)
	w.must(f.host.Truncate(int64(n)))
	f.resize(n)
}

func (w *world) hostUnlink() {
	f := w.pick()
	if f == nil {
		return
	}
	w.note("host unlinks %v", f)
	w.must(os.Remove(w.path(f.name)))
	w.drop(f)
}

func (w *world) hostRename() {
	f := w.pick()
	if f == nil {
		return
	}
	w.ids++
	name := fmt.Sprintf("h%d", w.ids)
	w.note("host renames %v to %s", f, name)
	w.must(os.Rename(w.path(f.name), w.path(name)))
	f.name, f.moved = name, true
}

// hostReplace puts another file in a file's place, as editors do.
func (w *world) hostReplace() {
	old := w.pick()
	if old == nil {
		return
	}
	w.ids++
	f := &file{id: w.ids, name: old.name}
	w.note("host replaces %v", old)
	data := w.random(w.newSize())
	w.must(os.WriteFile(w.path(".new"), data, 0o644))
	w.must(os.Rename(w.path(".new"), w.path(f.name)))
	w.drop(old)
	w.attach(f, data)
}

// anyHandle is how Linux says that there is no file handle: it maps by node.
const anyHandle = ^uint64(0)

// setup maps a random range at a random place, mostly one that is free and in the file.
func (w *world) setup() {
	f := w.known()
	if f == nil {
		return
	}
	n := 1 + w.r.IntN(8)
	first := w.r.IntN(mostSize/page - n)
	at := w.r.IntN(len(w.slots) - n)
	if w.r.IntN(4) > 0 && f.pages() > 0 {
		first = w.r.IntN(f.pages())
		n = min(n, f.pages()-first)
	}
	w.setupAt(f, first, at, n, w.r.IntN(2) == 0)
}

// setupAgain maps for writing what is mapped already. Linux does so without removing
// the old mapping first.
func (w *world) setupAgain() {
	at, s, ok := w.mapped()
	if !ok || s.file.node == 0 || s.file.moved || s.file.name == "" {
		return
	}
	first, n := w.extent(at)
	unmaps := w.s.Window.Unmaps.Load()
	if w.setupAt(s.file, w.slots[first].page, first, n, true) && w.s.Window.Unmaps.Load() != unmaps && !s.write {
		w.note("the upgrade was no upgrade")
		w.counts["gaps"]++
	}
}

// setupAt sends SETUPMAPPING. It must work where the range is free or shows the same
// pages already, and the file has bytes in each page up to the end. Where it fails,
// nothing has changed.
func (w *world) setupAt(f *file, first, at, n int, write bool) bool {
	w.note("SETUPMAPPING %d pages from %d of %v at page %d, write %v", n, first, f, at, write)
	free, same := true, true
	for i := range n {
		s := w.slots[at+i]
		free = free && s.file == nil
		same = same && s.file == f && s.page == first+i
	}
	whole := first*page+n*page <= len(f.data)
	flags := uint64(fp.SetupMappingRead)
	if write {
		flags |= fp.SetupMappingWrite
	}
	err := w.s.SetupMapping(f.node, anyHandle, uint64(first*page), uint64(n*page), uint64(at*page), flags)
	var errno unix.Errno
	switch {
	case err == nil:
		for i := range n {
			w.slots[at+i] = slot{file: f, page: first + i, write: write || same && w.slots[at+i].write}
		}
		w.counts["mapped"]++
	case !errors.As(err, &errno):
		w.fail("SETUPMAPPING: %v", err)
	case whole && (free || same && w.isExtent(at, n)):
		w.fail("SETUPMAPPING: %v", err)
	default:
		w.counts["not mapped: "+errno.Error()]++
	}
	w.checkMappings()
	return err == nil
}

// mapped is a random mapped page.
func (w *world) mapped() (int, slot, bool) {
	at := w.r.IntN(len(w.slots))
	for i := range w.slots {
		if at := (at + i) % len(w.slots); w.slots[at].file != nil {
			return at, w.slots[at], true
		}
	}
	return 0, slot{}, false
}

// extent is the mapping of the front-end that a page is in.
func (w *world) extent(at int) (first, n int) {
	for _, m := range w.s.Window.Mappings() {
		if off := uint64(at) * page; off >= m.Offset && off < m.Offset+m.Length {
			return int(m.Offset / page), int(m.Length / page)
		}
	}
	w.fail("page %d is not mapped", at)
	return 0, 0
}

func (w *world) isExtent(at, n int) bool {
	first, m := w.extent(at)
	return first == at && n == m
}

// remove removes one to three mappings in one request.
func (w *world) remove() {
	var list []fp.RemoveMappingOne
	for range 1 + w.r.IntN(3) {
		at, _, ok := w.mapped()
		if !ok {
			break
		}
		first, n := w.extent(at)
		one := fp.RemoveMappingOne{Moffset: uint64(first * page), Len: uint64(n * page)}
		if len(list) == 0 || list[0].Moffset != one.Moffset && list[len(list)-1].Moffset != one.Moffset {
			list = append(list, one)
		}
	}
	if len(list) == 0 {
		return
	}
	w.note("REMOVEMAPPING %+v", list)
	w.must(w.s.RemoveMapping(rootNode, list...))
	w.forget(list)
}

// removeAny sends REMOVEMAPPING for any range. After a success exactly this range is
// unmapped.
func (w *world) removeAny() {
	n := 1 + w.r.IntN(8)
	at := w.r.IntN(len(w.slots) - n)
	one := fp.RemoveMappingOne{Moffset: uint64(at * page), Len: uint64(n * page)}
	err := w.s.RemoveMapping(rootNode, one)
	w.note("REMOVEMAPPING of anything %+v: %v", one, err)
	if err == nil {
		w.forget([]fp.RemoveMappingOne{one})
		return
	}
	w.checkMappings()
}

func (w *world) forget(list []fp.RemoveMappingOne) {
	for _, one := range list {
		clear(w.slots[one.Moffset/page : (one.Moffset+one.Len)/page])
	}
	w.checkMappings()
}

func (w *world) windowRead() { w.checkSlot(w.r.IntN(len(w.slots))) }

// windowWrite writes a part of a page of a file through the window.
func (w *world) windowWrite() {
	at, s, ok := w.mapped()
	if !ok || s.page >= s.file.pages() {
		return
	}
	size := min(page, len(s.file.data)-s.page*page)
	off, n := w.spot(size, page)
	b := w.random(n)
	w.note("window write of %#x bytes at page %d + %#x to %v", n, at, off, s.file)
	_, err := w.s.Window.WriteAt(b, int64(at*page+off))
	switch {
	case err == nil:
		s.file.write(s.page*page+off, b)
	case s.write || !errors.Is(err, frontend.ErrFault):
		w.fail("window write: %v", err)
	}
}
