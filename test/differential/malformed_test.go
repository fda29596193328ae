package differential

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// malformed are requests that only a hostile or a broken guest sends.
var malformed = []testCase{
	{"name without an end", func(p *probe) { p.send(fp.OpLookup, []byte("file"), 256) }},
	{"short body", func(p *probe) { p.send(fp.OpOpen, []byte{1, 2}, 256) }},
	{"no body", func(p *probe) { p.send(fp.OpGetattr, nil, 256) }},
	{"xattr size", func(p *probe) {
		in := bytesOf(fp.SetxattrIn{Size: 1000})[:fp.CompatSetxattrInSize]
		p.send(fp.OpSetxattr, join(in, "user.x", []byte("short")), 256)
	}},
	{"small reply buffer", func(p *probe) { p.send(fp.OpLookup, join("file"), 20) }},
	{"tiny reply buffer", func(p *probe) { p.send(fp.OpLookup, join("file"), 3) }},
	{"one name of two", func(p *probe) { p.send(fp.OpRename, join(bytesOf(fp.RenameIn{NewDir: 1}), "file"), 256) }},
	{"second session", func(p *probe) {
		p.send(fp.OpInit, bytesOf(fp.InitIn{Major: 7, Minor: 45}), 256)
	}},
	{"read beyond all files", func(p *probe) {
		node := p.find("file")
		fh, err := p.Open(node, unix.O_RDWR)
		p.errno("open", err)
		_, err = p.Read(node, fh, 1<<63, 10)
		p.errno("read", err)
	}},
	{"write beyond all files", func(p *probe) {
		node := p.find("file")
		fh, err := p.Open(node, unix.O_RDWR)
		p.errno("open", err)
		_, err = p.Write(node, fh, 1<<63, []byte("x"))
		p.errno("write", err)
	}},
	{"forget the root", func(p *probe) {
		p.errno("forget", p.Forget(1, 1000))
		_, err := p.DoOn(p.Queues[0], &frontend.Request{Op: fp.OpStatfs, NodeID: 1, Reply: fp.Size[fp.StatfsOut]()})
		p.errno("statfs", err)
	}},
	{"after all", func(p *probe) {
		_, err := p.Getattr(1)
		p.errno("getattr", err)
	}},
}

// send sends any bytes on the first request queue and writes down the errno.
func (p *probe) send(op fp.Opcode, body []byte, room int) {
	n, reply := p.DoRaw(p.Queues[1], op, 1, body, room)
	a := answer{"length": fmt.Sprint(n)}
	if n >= 16 {
		a["error"] = fmt.Sprint(decode[fp.OutHeader](reply).Error)
	}
	p.note("reply", a)
}
