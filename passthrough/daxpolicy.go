package passthrough

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// DAXUnit is what Linux guests map at once, in bytes (fs/fuse/dax.c: FUSE_DAX_SZ). A
// window's table should be aligned to it: with less, a guest that maps single pages
// could make a front-end keep millions of mappings.
const DAXUnit = 2 << 20

// DAX describes the window, and which files the guest is told to map into it. A guest
// that is mounted with -o dax=always maps every file, whatever it is told.
type DAX struct {
	Table *dax.Table
	// Every has the guest map every regular file, or every one that it can read
	// rightly that way. Otherwise files of MinSize bytes or more are.
	Every   bool
	MinSize uint64
	// Include, if not empty, are patterns (see CheckPattern) for the only files that the
	// guest is told to map; Exclude are for files that it is not.
	Include, Exclude []string
	// Stretch makes front-ends map past the end of files, if it is not nil.
	Stretch Stretcher
}

// Stretcher makes a file look longer than any range that a guest may map, without
// changing it: a front-end that maps no more than a file has then maps all that it is
// asked to. Which pages are there is for the file to say, at each moment.
type Stretcher interface {
	// Stretch returns a descriptor of the file fd with the same access mode, whose
	// mappings are mappings of the file. It is the caller's to close.
	Stretch(fd int) (int, error)
}

// daxChoice is which files the guest is told to map.
type daxChoice struct {
	cfg *Config
	*features
	*access
	mounts *mountTable
	who    *credentials

	only, not patterns
}

// newDAXChoice reads the patterns; d may be nil.
func newDAXChoice(d *DAX) (c daxChoice, err error) {
	if d == nil {
		return c, nil
	}
	if c.only, err = parsePatterns(d.Include); err == nil {
		c.not, err = parsePatterns(d.Exclude)
	}
	return c, err
}

// init proposes to use the window, to a guest that has one.
func (ch *daxChoice) init(p *server.InitParams) (flags fp.InitFlags) {
	d := ch.cfg.DAX
	if d == nil || p.Offered&fp.InitMapAlignment == 0 {
		return 0
	}
	p.MapAlignment = uint16(bits.TrailingZeros64(d.Table.Align()))
	d.Table.StartProbe(d.Stretch == nil) // until it has an answer, it is no
	return fp.InitMapAlignment | fp.InitHasInodeDAX
}

// attr is fp.AttrDAX for a file that the guest should map. Linux applies it when it
// first sees a file. A later change applies when it has forgotten the file (fs/fuse/dax.c:
// fuse_dax_dontcache), so an open file keeps its setting.
func (ch *daxChoice) attr(id uint64, st *unix.Statx_t) uint32 {
	d := ch.cfg.DAX
	if d == nil || st.Mode&unix.S_IFMT != unix.S_IFREG || !ch.agreed(fp.InitHasInodeDAX) {
		return 0
	}
	if !d.Every && st.Size < d.MinSize {
		return 0
	}
	traits := d.Table.Traits()
	if d.Stretch == nil && !traits.PastEnd && (st.Size == 0 || st.Size%DAXUnit != 0) {
		return 0
	}
	if !traits.ReadOnly && !ch.mapsForWriting(st) {
		return 0
	}
	if !ch.chosen(id) {
		return 0
	}
	return fp.AttrDAX
}

// note notes whether the guest is told to map a file. It is called whenever the guest is
// told of a name; what it was told first holds, as in the guest.
func (ch *daxChoice) note(n *inode, a *fp.Attr) {
	if ch.cfg.DAX == nil || !n.isReg() {
		return
	}
	mark := markNoDAX
	if a.Flags&fp.AttrDAX != 0 {
		mark = markDAX
	}
	n.Lock()
	defer n.Unlock()
	if n.marks&(markDAX|markNoDAX) == 0 {
		n.marks |= mark
	}
}

// maps notes that the guest maps a file: it uses it by DAX, whatever it was told, perhaps by a
// process that has died.
func (ch *daxChoice) maps(n *inode) {
	n.Lock()
	defer n.Unlock()
	n.marks = n.marks&^markNoDAX | markDAX
}

// uses reports whether the guest reads and writes a file in the window only. One that is
// mounted with -o dax=always does so with every file, and does not ask for
// fp.InitHasInodeDAX (fs/fuse/inode.c: fuse_send_init).
func (ch *daxChoice) uses(n *inode) bool {
	switch {
	case ch.cfg.DAX == nil || !n.isReg() || !ch.agreed(fp.InitMapAlignment):
		return false
	case !ch.agreed(fp.InitHasInodeDAX):
		return true
	}
	n.Lock()
	defer n.Unlock()
	return n.marks&markDAX != 0
}

// chosen reports whether the patterns let the guest map a file.
func (ch *daxChoice) chosen(id uint64) bool {
	if len(ch.only) == 0 && len(ch.not) == 0 {
		return true
	}
	n, errno := ch.get(id)
	if errno != 0 {
		return false
	}
	defer ch.nodes.release(n)
	return (len(ch.only) == 0 || ch.only.match(ch.nodes, n)) && !ch.not.match(ch.nodes, n)
}

// mapsForWriting reports whether a file can, and may, be mapped for writing. It may not
// if the host could want to execute it: that fails with ETXTBSY as long as any process
// has the file open for writing, and so does the reverse.
func (ch *daxChoice) mapsForWriting(st *unix.Statx_t) bool {
	const fixed = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND | unix.STATX_ATTR_VERITY
	if ch.cfg.ReadOnly || st.Attributes&fixed != 0 || st.Mode&executable != 0 {
		return false
	}
	k := keyOf(st)
	if m := ch.mounts.get(mountKey{k.mount, k.dev}); m == nil || m.readOnly {
		return false
	}
	switch {
	case ch.who.caps.has(unix.CAP_DAC_OVERRIDE):
		return true
	case st.Uid == ch.who.uid:
		return st.Mode&0o200 != 0
	case st.Gid == ch.who.gid:
		return st.Mode&0o020 != 0
	}
	return st.Mode&0o002 != 0
}

// executable are the mode bits of a program.
const executable = 0o111

// meetMount checks the mount of a directory, before files in it are announced.
func (ch *daxChoice) meetMount(dir *inode, fd int) {
	if ch.cfg.DAX != nil {
		ch.mounts.of(dir.Key(), fd)
	}
}
