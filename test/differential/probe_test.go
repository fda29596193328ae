package differential

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// answer is a reply, field by field, without the fields that can't be equal: node
// numbers, handles, inode numbers and the time of day.
type answer map[string]string

// line is the answer to one request.
type line struct {
	label string
	answer
}

// probe sends the requests of a case to one daemon and writes the answers down.
type probe struct {
	*frontend.Client
	prefix string

	mu    sync.Mutex
	lines []line
	over  bool // the daemon has ended: later answers do not count
}

func (p *probe) note(label string, a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.lines = append(p.lines, line{p.prefix + label, a})
	}
}

// failed is the answer for an error. It reports whether err is one.
func failed(err error) (answer, bool) {
	var errno unix.Errno
	switch {
	case err == nil:
		return answer{"errno": "0"}, false
	case errors.As(err, &errno):
		return answer{"errno": unix.ErrnoName(errno)}, true
	}
	return answer{"errno": err.Error()}, true
}

// errno writes down an answer that has no body.
func (p *probe) errno(label string, err error) {
	a, _ := failed(err)
	p.note(label, a)
}

// value writes down an answer of one value.
func (p *probe) value(label string, v any, err error) {
	a, bad := failed(err)
	if !bad {
		a["value"] = fmt.Sprint(v)
	}
	p.note(label, a)
}

// attr adds attributes. It compares times only where the tree has set them.
func (a answer) attr(at *fp.Attr) {
	a["mode"] = fmt.Sprintf("%o", at.Mode)
	a["nlink"], a["rdev"] = fmt.Sprint(at.Nlink), fmt.Sprint(at.Rdev)
	a["owner"] = fmt.Sprintf("%d:%d", at.UID, at.GID)
	a["size"], a["blksize"], a["flags"] = fmt.Sprint(at.Size), fmt.Sprint(at.Blksize), fmt.Sprint(at.Flags)
	if at.Mode&unix.S_IFMT == unix.S_IFREG {
		a["blocks"] = fmt.Sprint(at.Blocks)
	}
	a["mtime"] = "new"
	if d := time.Since(time.Unix(int64(at.Mtime), int64(at.MtimeNsec))); d < 0 || d > time.Hour {
		a["mtime"] = fmt.Sprintf("%d.%09d", int64(at.Mtime), at.MtimeNsec)
	}
}

func (p *probe) attr(label string, out fp.AttrOut, err error) {
	a, bad := failed(err)
	if !bad {
		a["valid"] = fmt.Sprintf("%d.%09d", out.AttrValid, out.AttrValidNsec)
		a.attr(&out.Attr)
	}
	p.note(label, a)
}

// entry adds the fields of an EntryOut.
func (a answer) entry(e *fp.EntryOut) {
	a["node"] = fmt.Sprint(e.NodeID != 0)
	a["generation"] = fmt.Sprint(e.Generation)
	a["entryvalid"] = fmt.Sprintf("%d.%09d", e.EntryValid, e.EntryValidNsec)
	a["valid"] = fmt.Sprintf("%d.%09d", e.AttrValid, e.AttrValidNsec)
	a.attr(&e.Attr)
}

// entry writes down an entry and returns its node.
func (p *probe) entry(label string, e fp.EntryOut, err error) uint64 {
	a, bad := failed(err)
	if !bad {
		a.entry(&e)
	}
	p.note(label, a)
	return e.NodeID
}

// created writes down the answer to CREATE.
func (p *probe) created(label string, out fp.CreateOut, err error) (node, fh uint64) {
	a, bad := failed(err)
	if !bad {
		a.entry(&out.Entry)
		a["open"] = fmt.Sprintf("%#x", out.Open.OpenFlags)
	}
	p.note(label, a)
	return out.Entry.NodeID, out.Open.Fh
}

// opened sends OPEN or OPENDIR and writes down the answer.
func (p *probe) opened(label string, op fp.Opcode, node uint64, flags uint32) uint64 {
	b, err := p.raw(op, node, fp.Size[fp.OpenOut](), bytesOf(fp.OpenIn{Flags: flags}))
	a, bad := failed(err)
	var out fp.OpenOut
	if !bad {
		out = decode[fp.OpenOut](b)
		a["open"] = fmt.Sprintf("%#x", out.OpenFlags)
	}
	p.note(label, a)
	return out.Fh
}

// raw sends any request with a body of parts; strings get their NUL.
func (p *probe) raw(op fp.Opcode, node uint64, reply int, parts ...any) ([]byte, error) {
	return p.Do(&frontend.Request{Op: op, NodeID: node, Body: join(parts...), Reply: reply})
}

func join(parts ...any) (b []byte) {
	for _, part := range parts {
		switch part := part.(type) {
		case []byte:
			b = append(b, part...)
		case string:
			b = append(append(b, part...), 0)
		}
	}
	return b
}

// decode reads a struct of a reply. A short reply leaves the rest zero.
func decode[T fp.Body](b []byte) (v T) {
	copy(fp.Bytes(&v), b)
	return v
}

// find looks a path up and returns its node, or 0.
func (p *probe) find(path string) uint64 {
	node := uint64(fp.RootID)
	for _, name := range strings.Split(filepath.Clean(path), "/") {
		if name == "." || node == 0 {
			continue
		}
		e, err := p.Lookup(node, name)
		if err != nil {
			return 0
		}
		node = e.NodeID
	}
	return node
}

// listing writes down the entries of a directory, in the order of their names.
func (p *probe) listing(label string, node uint64, plus bool) {
	list, err := p.ReadAll(node, plus)
	p.value(label, len(list), err)
	slices.SortFunc(list, func(a, b frontend.Dirent) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range list {
		a := answer{"type": fmt.Sprint(e.Type)}
		switch {
		case plus && e.Entry.NodeID != 0:
			a.entry(&e.Entry)
		case plus:
			a["node"] = "false"
		}
		p.note(fmt.Sprintf("%s:%q", label, e.Name), a)
	}
}
