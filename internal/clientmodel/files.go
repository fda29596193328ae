package clientmodel

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// most is how long a file becomes.
const most = 300 << 10

func (u *User) openFlags() uint32 {
	return []uint32{unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY}[u.r.IntN(3)] | []uint32{0, unix.O_APPEND}[u.r.IntN(2)]
}

func (u *User) opened(n *node, fh uint64, flags uint32) {
	n.opens++
	u.files = append(u.files, &file{n: n, fh: fh, flags: flags})
}

// create makes a file and opens it, or opens one that is there.
func (u *User) create() {
	if len(u.files) > 12 {
		u.release()
		return
	}
	flags := u.openFlags()
	if u.r.IntN(2) == 0 {
		flags |= unix.O_EXCL
	}
	n := u.made(unix.S_IFREG | u.fileMode())
	l := link{u.dir(), u.fresh()}
	want, old := unix.Errno(0), (*node)(nil)
	if u.r.IntN(5) == 0 {
		if o, at := u.named(unix.S_IFREG); o != nil {
			l, old = at, o
			n.uid, n.gid = 0, 0
			if flags&unix.O_EXCL != 0 {
				want = unix.EEXIST
			} else if flags&unix.O_ACCMODE != unix.O_RDONLY && u.r.IntN(2) == 0 {
				flags |= unix.O_TRUNC
			}
		}
	}
	b, err := u.do(&frontend.Request{Op: fp.OpCreate, NodeID: l.dir.id, Reply: fp.Size[fp.CreateOut](), UID: n.uid, GID: n.gid},
		fmt.Sprintf("%s flags %#x", l.name, flags), wire(fp.CreateIn{Flags: flags | unix.O_CREAT, Mode: n.mode}), l.name)
	if !u.want(err, want) {
		return
	}
	out := take[fp.CreateOut](u, b)
	if old != nil {
		if n = old; flags&unix.O_TRUNC != 0 {
			n.data, n.mtime = nil, 0
		}
	} else {
		u.put(n, l)
	}
	if u.granted(n, out.Entry) {
		u.opened(n, out.Open.Fh, flags)
	}
}

func (u *User) tmpfile() {
	if len(u.files) > 12 {
		return
	}
	n := u.made(unix.S_IFREG | u.fileMode())
	b, err := u.do(&frontend.Request{Op: fp.OpTmpfile, NodeID: u.dir().id, Reply: fp.Size[fp.CreateOut](), UID: n.uid, GID: n.gid},
		"", wire(fp.CreateIn{Flags: unix.O_RDWR, Mode: n.mode}), "/")
	if !u.want(err, 0) {
		return
	}
	out := take[fp.CreateOut](u, b)
	u.nodes = append(u.nodes, n)
	if !u.granted(n, out.Entry) {
		return
	}
	u.opened(n, out.Open.Fh, unix.O_RDWR)
	if u.r.IntN(3) == 0 { // it gets a name
		l := link{u.dir(), u.fresh()}
		u.makeEntry(fp.OpLink, n, l, l.dir.id, wire(fp.LinkIn{OldNodeID: n.id}), l.name)
	}
}

func (u *User) open() {
	n := u.pick(func(n *node) bool { return n.is(unix.S_IFREG) && len(n.links) > 0 })
	if n == nil || len(u.files) > 12 {
		return
	}
	flags := u.openFlags()
	if flags&unix.O_ACCMODE != unix.O_RDONLY && u.r.IntN(4) == 0 {
		flags |= unix.O_TRUNC
	}
	b, err := u.do(&frontend.Request{Op: fp.OpOpen, NodeID: n.id, Reply: fp.Size[fp.OpenOut]()},
		fmt.Sprintf("flags %#x", flags), wire(fp.OpenIn{Flags: flags}))
	if u.want(err, 0) {
		if flags&unix.O_TRUNC != 0 {
			n.data, n.mtime = nil, 0
		}
		u.opened(n, take[fp.OpenOut](u, b).Fh, flags)
	}
}

// some is any open file that f accepts.
func (u *User) some(f func(f *file) bool) *file {
	if len(u.files) == 0 {
		return nil
	}
	start := u.r.IntN(len(u.files))
	for i := range u.files {
		if o := u.files[(start+i)%len(u.files)]; f(o) {
			return o
		}
	}
	return nil
}

func anyFile(*file) bool { return true }

func (u *User) release() {
	f := u.some(anyFile)
	if f == nil || len(u.files) < 4 && u.r.IntN(2) == 0 {
		return
	}
	_, err := u.do(&frontend.Request{Op: fp.OpRelease, NodeID: f.n.id}, "", wire(fp.ReleaseIn{Fh: f.fh}))
	if u.want(err, 0) {
		f.n.opens--
		u.files = slices.DeleteFunc(u.files, func(o *file) bool { return o == f })
	}
}

func (u *User) flush() {
	f := u.some(anyFile)
	if f == nil {
		return
	}
	r, body := &frontend.Request{Op: fp.OpFlush, NodeID: f.n.id}, wire(fp.FlushIn{Fh: f.fh, LockOwner: 5})
	if u.r.IntN(4) == 0 {
		r.Op, body = fp.OpFsync, wire(fp.FsyncIn{Fh: f.fh})
	}
	_, err := u.do(r, "", body)
	u.want(err, 0)
}

// send writes at an offset; the file has grown to there by now, or it has a hole.
func (u *User) send(f *file, off int, data []byte) {
	b, err := u.do(&frontend.Request{Op: fp.OpWrite, NodeID: f.n.id, Data: data, Reply: fp.Size[fp.WriteOut]()},
		fmt.Sprintf("%d bytes at %d, flags %#x", len(data), off, f.flags),
		wire(fp.WriteIn{Fh: f.fh, Offset: uint64(off), Size: uint32(len(data)), Flags: f.flags}))
	if !u.want(err, 0) {
		return
	}
	if out := take[fp.WriteOut](u, b); int(out.Size) != len(data) {
		u.fail("%d bytes written, want %d", out.Size, len(data))
	}
	if f.appends() {
		off = len(f.n.data)
	}
	f.n.store(off, data)
}

func (n *node) store(off int, data []byte) {
	if len(data) > 0 {
		n.grow(off + len(data))
		copy(n.data[off:], data)
	}
	n.mtime = 0
}

func (n *node) grow(to int) {
	if to > len(n.data) {
		n.data = append(n.data, make([]byte, to-len(n.data))...)
	}
}

func (u *User) write() {
	if f := u.some(func(f *file) bool { return f.writes() && len(f.n.data) < most }); f != nil {
		u.send(f, u.r.IntN(len(f.n.data)+100), u.text())
	}
}

func (u *User) append() {
	if f := u.some(func(f *file) bool { return f.writes() && f.appends() && len(f.n.data) < most }); f != nil {
		data := u.text()
		if u.r.IntN(3) == 0 {
			data = []byte("same")
		}
		u.send(f, len(f.n.data), data)
	}
}

func (u *User) read() {
	f := u.some((*file).reads)
	if f == nil {
		return
	}
	off := u.r.IntN(len(f.n.data) + 10)
	size := u.r.IntN(64 << 10)
	b, err := u.do(&frontend.Request{Op: fp.OpRead, NodeID: f.n.id, Read: max(size, 1)}, fmt.Sprintf("%d at %d", size, off),
		wire(fp.ReadIn{Fh: f.fh, Offset: uint64(off), Size: uint32(size)}))
	if u.want(err, 0) {
		u.same(b, f.n.data, off, size)
	}
}

// same compares what was read with what there is.
func (u *User) same(got, data []byte, off, size int) {
	off = min(off, len(data))
	want := data[off:min(off+size, len(data))]
	if !bytes.Equal(got, want) {
		u.fail("%d bytes are not the %d it must have; the first difference at %d", len(got), len(want), differ(got, want))
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (u *User) fallocate() {
	f := u.some(func(f *file) bool { return f.writes() && len(f.n.data) < most })
	if f == nil {
		return
	}
	off, size := u.r.IntN(len(f.n.data)+5000), 1+u.r.IntN(9000)
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE}[u.r.IntN(3)]
	_, err := u.do(&frontend.Request{Op: fp.OpFallocate, NodeID: f.n.id}, fmt.Sprintf("%d at %d mode %d", size, off, mode),
		wire(fp.FallocateIn{Fh: f.fh, Offset: uint64(off), Length: uint64(size), Mode: mode}))
	if !u.want(err, 0) {
		return
	}
	switch mode {
	case 0:
		f.n.grow(off + size)
	case unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE:
		if off < len(f.n.data) {
			clear(f.n.data[off:min(off+size, len(f.n.data))])
		}
	}
	f.n.mtime = 0
}

func (u *User) copyRange() {
	from := u.some((*file).reads)
	to := u.some(func(f *file) bool { return f.writes() && !f.appends() && len(f.n.data) < most })
	if from == nil || to == nil || from.n == to.n {
		return
	}
	off, at, size := u.r.IntN(len(from.n.data)+10), u.r.IntN(len(to.n.data)+10), 1+u.r.IntN(20000)
	in := fp.CopyFileRangeIn{FhIn: from.fh, OffIn: uint64(off), NodeIDOut: to.n.id, FhOut: to.fh, OffOut: uint64(at), Len: uint64(size)}
	r := &frontend.Request{Op: fp.OpCopyFileRange64, NodeID: from.n.id, Reply: fp.Size[fp.CopyFileRangeOut]()}
	if u.r.IntN(2) == 0 {
		r.Op, r.Reply = fp.OpCopyFileRange, fp.Size[fp.WriteOut]()
	}
	b, err := u.do(r, fmt.Sprintf("%d at %d to %d of %d", size, off, at, to.n.id), wire(in))
	if !u.want(err, 0) {
		return
	}
	var n int
	if r.Op == fp.OpCopyFileRange {
		n = int(take[fp.WriteOut](u, b).Size)
	} else {
		n = int(take[fp.CopyFileRangeOut](u, b).BytesCopied)
	}
	data := from.n.data[min(off, len(from.n.data)):min(off+size, len(from.n.data))]
	if n > len(data) || n == 0 && len(data) > 0 {
		u.fail("%d bytes are copied, want %d", n, len(data))
		return
	}
	to.n.store(at, data[:n])
}

// change sends a SETATTR and checks the reply against the node, which has changed.
func (u *User) change(n *node, in fp.SetattrIn, about string) {
	b, err := u.do(&frontend.Request{Op: fp.OpSetattr, NodeID: n.id, Reply: fp.Size[fp.AttrOut]()}, about, wire(in))
	if u.want(err, 0) {
		u.attr(n, take[fp.AttrOut](u, b).Attr)
	}
}

func (u *User) setattr() {
	n := u.pick(func(n *node) bool { return !n.is(unix.S_IFLNK) && (len(n.links) > 0 || n.opens > 0) })
	if n == nil {
		return
	}
	var in fp.SetattrIn
	if u.r.IntN(2) == 0 && !n.isDir() {
		in.Valid |= fp.FattrMode
		n.mode = n.mode&unix.S_IFMT | u.fileMode()
		in.Mode = n.mode
	}
	if u.r.IntN(3) == 0 {
		in.Valid |= fp.FattrUID | fp.FattrGID
		n.uid, n.gid = u.owner()
		in.UID, in.GID = n.uid, n.gid
	}
	switch u.r.IntN(3) {
	case 0:
		in.Valid |= fp.FattrMtime | fp.FattrAtime
		n.mtime = int64(1_000_000 + u.r.IntN(1_000_000))
		in.Mtime, in.Atime = uint64(n.mtime), 77
	case 1:
		in.Valid |= fp.FattrMtime | fp.FattrMtimeNow
		n.mtime = 0
	}
	u.change(n, in, fmt.Sprintf("valid %#x mode %o owner %d:%d", in.Valid, in.Mode, in.UID, in.GID))
}

func (u *User) truncate() {
	n := u.pick(func(n *node) bool { return n.is(unix.S_IFREG) && len(n.links) > 0 })
	in := fp.SetattrIn{Valid: fp.FattrSize}
	if f := u.some((*file).writes); f != nil && u.r.IntN(2) == 0 {
		n = f.n
		in.Valid |= fp.FattrFh
		in.Fh = f.fh
	}
	if n == nil {
		return
	}
	to := u.r.IntN(len(n.data) + 3000)
	n.data = n.data[:min(to, len(n.data))]
	n.grow(to)
	n.mtime = 0
	in.Size = uint64(to)
	u.change(n, in, fmt.Sprintf("valid %#x size %d", in.Valid, to))
}

func (u *User) getattr() {
	n := u.pick(func(n *node) bool { return len(n.links) > 0 || n.opens > 0 })
	if n == nil {
		n = u.root
	}
	if n.is(unix.S_IFLNK) && u.r.IntN(2) == 0 {
		b, err := u.do(&frontend.Request{Op: fp.OpReadlink, NodeID: n.id, Reply: 4096}, "")
		if u.want(err, 0) && string(b) != n.target {
			u.fail("a link to %q, want %q", b, n.target)
		}
		return
	}
	b, err := u.do(&frontend.Request{Op: fp.OpGetattr, NodeID: n.id, Reply: fp.Size[fp.AttrOut]()}, "", wire(fp.GetattrIn{}))
	if u.want(err, 0) {
		u.attr(n, take[fp.AttrOut](u, b).Attr)
	}
}

func (u *User) statfs() {
	_, err := u.do(&frontend.Request{Op: fp.OpStatfs, NodeID: u.root.id, Reply: fp.Size[fp.StatfsOut]()}, "")
	u.want(err, 0)
}

// withXattrs is any file or directory; its attributes have names of few.
func (u *User) withXattrs() (*node, string) {
	n := u.pick(func(n *node) bool {
		return (n.isDir() || n.is(unix.S_IFREG)) && (len(n.links) > 0 || n.opens > 0)
	})
	return n, fmt.Sprintf("user.x%d", u.r.IntN(4))
}

func (u *User) setxattr() {
	n, name := u.withXattrs()
	if n == nil {
		return
	}
	flags := []uint32{0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[u.r.IntN(3)]
	value := fmt.Sprint("v", u.r.IntN(1_000_000))
	in := wire(fp.SetxattrIn{Size: uint32(len(value)), Flags: flags})
	if fp.InitFlags(uint64(u.c.Init.Flags)|uint64(u.c.Init.Flags2)<<32)&fp.InitSetxattrExt == 0 {
		in = in[:fp.CompatSetxattrInSize]
	}
	_, err := u.do(&frontend.Request{Op: fp.OpSetxattr, NodeID: n.id}, fmt.Sprintf("%s=%s flags %d", name, value, flags), in, name, []byte(value))
	_, has := n.xattrs[name]
	want := unix.Errno(0)
	switch {
	case has && flags == unix.XATTR_CREATE:
		want = unix.EEXIST
	case !has && flags == unix.XATTR_REPLACE:
		want = unix.ENODATA
	}
	if u.want(err, want) {
		n.xattrs[name] = value
	}
}

func (u *User) removexattr() {
	n, name := u.withXattrs()
	if n == nil {
		return
	}
	_, err := u.do(&frontend.Request{Op: fp.OpRemovexattr, NodeID: n.id}, name, name)
	want := unix.Errno(0)
	if _, has := n.xattrs[name]; !has {
		want = unix.ENODATA
	}
	u.want(err, want)
	delete(n.xattrs, name)
}

func (u *User) getxattr() {
	n, name := u.withXattrs()
	if n == nil {
		return
	}
	b, err := u.do(&frontend.Request{Op: fp.OpGetxattr, NodeID: n.id, Reply: 256}, name, wire(fp.GetxattrIn{Size: 256}), name)
	value, has := n.xattrs[name]
	if !has {
		u.want(err, unix.ENODATA)
	} else if u.want(err, 0) && string(b) != value {
		u.fail("%s is %q, want %q", name, b, value)
	}
}
