package server

import (
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// DirWriter appends directory entries to a READDIR or READDIRPLUS reply until
// it is full.
type DirWriter struct {
	buf []byte
	n   int
}

// NewDirWriter writes into buf, which must be aligned to 8 bytes.
func NewDirWriter(buf []byte) *DirWriter { return &DirWriter{buf: buf} }

// Len is how many bytes were written.
func (w *DirWriter) Len() int { return w.n }

// Room is how many bytes can still be written.
func (w *DirWriter) Room() int { return len(w.buf) - w.n }

// Bytes is what was written.
func (w *DirWriter) Bytes() []byte { return w.buf[:w.n] }

// Add appends one struct fuse_dirent. off is the position after this entry,
// where a later READDIR continues. If the entry does not fit, Add appends
// nothing and returns false.
func (w *DirWriter) Add(ino, off uint64, typ uint32, name []byte) bool {
	size := fp.DirentAlign(int(unsafe.Sizeof(fp.Dirent{})) + len(name))
	if len(w.buf)-w.n < size {
		return false
	}
	w.dirent(w.n, ino, off, typ, name)
	w.n += size
	return true
}

// Fits reports whether an AddPlus of a name with n bytes would succeed, so that
// a lookup which could not be delivered is not made.
func (w *DirWriter) Fits(n int) bool {
	return len(w.buf)-w.n >= fp.DirentAlign(int(unsafe.Sizeof(fp.Direntplus{}))+n)
}

// AddPlus appends one struct fuse_direntplus. An e with NodeID 0 gives the name
// without attributes; the client then looks it up itself.
func (w *DirWriter) AddPlus(e *fp.EntryOut, ino, off uint64, typ uint32, name []byte) bool {
	if !w.Fits(len(name)) {
		return false
	}
	*(*fp.EntryOut)(unsafe.Pointer(&w.buf[w.n])) = *e
	w.dirent(w.n+int(unsafe.Sizeof(fp.EntryOut{})), ino, off, typ, name)
	w.n += fp.DirentAlign(int(unsafe.Sizeof(fp.Direntplus{})) + len(name))
	return true
}

// dirent writes the entry at position at; it fits. The padding behind the name
// is cleared: it reaches the guest.
func (w *DirWriter) dirent(at int, ino, off uint64, typ uint32, name []byte) {
	d := (*fp.Dirent)(unsafe.Pointer(&w.buf[at]))
	d.Ino, d.Off, d.NameLen, d.Type = ino, off, uint32(len(name)), typ
	body := w.buf[at+int(unsafe.Sizeof(*d)):]
	n := copy(body, name)
	clear(body[n : fp.DirentAlign(int(unsafe.Sizeof(*d))+n)-int(unsafe.Sizeof(*d))])
}

// Filter takes entries out that keep does not want, for a file system around another one. plus says
// that AddPlus has added them: then keep gets what it has added, and forgets a node of an entry that
// it does not want. keep may change name in place. Filter returns the position after the last entry that
// there was; 0 if there was none. If it has left nothing, the caller reads on from there: an empty reply
// is the end of the directory.
func (w *DirWriter) Filter(plus bool, keep func(e *fp.EntryOut, name []byte) bool) (last uint64) {
	head := 0
	if plus {
		head = int(unsafe.Sizeof(fp.EntryOut{}))
	}
	kept := 0
	for at := 0; at < w.n; {
		d := (*fp.Dirent)(unsafe.Pointer(&w.buf[at+head]))
		last = d.Off
		size := fp.DirentAlign(head + int(unsafe.Sizeof(*d)) + int(d.NameLen))
		var e *fp.EntryOut
		if plus {
			e = (*fp.EntryOut)(unsafe.Pointer(&w.buf[at]))
		}
		if keep(e, w.buf[at+head+int(unsafe.Sizeof(*d)):][:d.NameLen]) {
			copy(w.buf[kept:], w.buf[at:at+size])
			kept += size
		}
		at += size
	}
	w.n = kept
	return last
}
