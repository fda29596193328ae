package relay

import (
	"bytes"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func (p *process) handle(h *fp.InHeader, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	op := fp.Opcode(h.Opcode)
	if int(since[op]) > int(p.m.minor) {
		p.violation("%s, which 7.%d does not have", op, p.m.minor)
	}
	switch op {
	case fp.OpInit:
		return p.init(), 0, false
	case fp.OpDestroy:
		p.destroy = true
		return nil, 0, false
	case fp.OpBatchForget:
		in, rest := exact[fp.BatchForgetIn](p, h, b)
		for i := range int(in.Count) {
			var one fp.ForgetOne
			copy(fp.Bytes(&one), rest[i*16:])
			p.forget(one.NodeID, one.NLookup)
		}
		return nil, 0, true
	case fp.OpInterrupt, fp.OpNotifyReply:
		return nil, 0, true
	}
	n := p.nodes[h.NodeID]
	if n == nil {
		p.violation("%s with the node id %#x", op, h.NodeID)
		return nil, unix.EIO, op == fp.OpForget
	}
	return p.handleNode(op, h, n, b)
}

func (p *process) init() [][]byte {
	out := fp.InitOut{Major: 7, Minor: p.m.minor, MaxReadahead: MaxData, MaxWrite: p.m.maxWrite,
		Flags: uint32(p.m.flags), Flags2: uint32(p.m.flags >> 32), MaxPages: 32, TimeGran: 1}
	b := bytes.Clone(fp.Bytes(&out))
	if p.m.minor < 23 {
		b = b[:fp.Compat22InitOutSize]
	}
	return [][]byte{b}
}

func (p *process) forget(id, n uint64) {
	if id == 1 || p.counts[id] < n || n == 0 {
		p.violation("FORGET of %d lookups of node %#x, which has %d", n, id, p.counts[id])
		return
	}
	if p.counts[id] -= n; p.counts[id] == 0 {
		delete(p.ids, p.nodes[id])
		delete(p.nodes, id)
	}
}

func (p *process) handleNode(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	one := func(b []byte) ([][]byte, unix.Errno, bool) { return [][]byte{b}, 0, false }
	fail := func(e unix.Errno) ([][]byte, unix.Errno, bool) { return nil, e, false }
	switch op {
	case fp.OpForget:
		in, _ := exact[fp.ForgetIn](p, h, b)
		p.forget(h.NodeID, in.NLookup)
		return nil, 0, true
	case fp.OpLookup:
		f := n.children[cstrings(b)[0]]
		if f == nil {
			return fail(unix.ENOENT)
		}
		return one(p.entry(f))
	case fp.OpGetattr:
		if p.m.minor < 9 {
			if len(b) != 0 {
				p.violation("GETATTR with a body before 7.9")
			}
		} else if in, _ := exact[fp.GetattrIn](p, h, b); in.GetattrFlags&fp.GetattrFh != 0 {
			p.file(h, in.Fh, n)
		}
		return one(p.attrOut(n))
	case fp.OpSetattr:
		in, _ := exact[fp.SetattrIn](p, h, b)
		if in.Valid&fp.FattrSize != 0 && in.Size > 1<<24 {
			return fail(unix.EFBIG)
		}
		if in.Valid&fp.FattrSize != 0 {
			n.data = append(n.data, make([]byte, max(0, int(in.Size)-len(n.data)))...)[:in.Size]
		}
		if in.Valid&fp.FattrMode != 0 {
			n.mode = n.mode&unix.S_IFMT | in.Mode&0o7777
		}
		return one(p.attrOut(n))
	case fp.OpReadlink:
		return one(bytes.Clone(n.data))
	case fp.OpStatfs:
		return one(bytes.Clone(fp.Bytes(&fp.StatfsOut{St: fp.Kstatfs{Blocks: 77, NameLen: 255}})))
	case fp.OpOpen, fp.OpOpendir:
		exact[fp.OpenIn](p, h, b)
		return one(p.open(n))
	case fp.OpRelease, fp.OpReleasedir:
		in, _ := exact[fp.ReleaseIn](p, h, b)
		p.file(h, in.Fh, n)
		delete(p.handles, in.Fh)
		return nil, 0, false
	case fp.OpRead:
		in, _ := exact[fp.ReadIn](p, h, b)
		p.file(h, in.Fh, n)
		if in.Size > MaxData {
			p.violation("READ of %d bytes", in.Size)
		}
		from := min(in.Offset, uint64(len(n.data)))
		return one(bytes.Clone(n.data[from:min(from+uint64(in.Size), uint64(len(n.data)))]))
	case fp.OpReaddir, fp.OpReaddirplus:
		return p.readdir(op, h, n, b)
	case fp.OpWrite:
		return p.write(h, n, b)
	case fp.OpFlush:
		in, _ := exact[fp.FlushIn](p, h, b)
		p.file(h, in.Fh, n)
		return nil, 0, false
	case fp.OpFsync, fp.OpFsyncdir:
		in, _ := exact[fp.FsyncIn](p, h, b)
		p.file(h, in.Fh, n)
		return nil, 0, false
	case fp.OpAccess:
		return nil, 0, false
	case fp.OpLseek:
		in, _ := exact[fp.LseekIn](p, h, b)
		p.file(h, in.Fh, n)
		return one(bytes.Clone(fp.Bytes(&fp.LseekOut{Offset: in.Offset + 1})))
	case fp.OpSetlk, fp.OpSetlkw, fp.OpGetlk:
		in, _ := exact[fp.LkIn](p, h, b)
		p.file(h, in.Fh, n)
		if op == fp.OpGetlk {
			return one(bytes.Clone(fp.Bytes(&fp.LkOut{Lk: fp.FileLock{Type: unix.F_UNLCK, PID: 4711}})))
		}
		return nil, 0, false
	case fp.OpCopyFileRange:
		in, _ := exact[fp.CopyFileRangeIn](p, h, b)
		p.file(h, in.FhIn, n)
		p.file(h, in.FhOut, p.nodes[in.NodeIDOut])
		return one(bytes.Clone(fp.Bytes(&fp.WriteOut{Size: uint32(in.Len)})))
	case fp.OpIoctl:
		in, rest := exact[fp.IoctlIn](p, h, b)
		if in.Flags&fp.IoctlUnrestricted != 0 {
			p.violation("an unrestricted IOCTL")
		}
		out := bytes.Clone(fp.Bytes(&fp.IoctlOut{Result: 5}))
		return [][]byte{out, rest[:min(len(rest), int(in.OutSize))]}, 0, false
	}
	return p.handleNames(op, h, n, b)
}

func (p *process) handleNames(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	one := func(b []byte) ([][]byte, unix.Errno, bool) { return [][]byte{b}, 0, false }
	fail := func(e unix.Errno) ([][]byte, unix.Errno, bool) { return nil, e, false }
	switch op {
	case fp.OpMkdir:
		_, rest := exact[fp.MkdirIn](p, h, b)
		return p.make(n, cstrings(rest)[0], unix.S_IFDIR|0o755, "")
	case fp.OpMknod:
		size := fp.Size[fp.MknodIn]()
		if p.m.minor < 12 {
			size = compatMknodSize
		}
		in, rest := bodyAs[fp.MknodIn](p, h, b, size)
		return p.make(n, cstrings(rest)[0], in.Mode, "")
	case fp.OpSymlink:
		names := cstrings(b)
		return p.make(n, names[0], unix.S_IFLNK|0o777, names[1])
	case fp.OpCreate:
		size := fp.Size[fp.CreateIn]()
		if p.m.minor < 12 {
			size = compatOpenSize
		}
		_, rest := bodyAs[fp.CreateIn](p, h, b, size)
		name := cstrings(rest)[0]
		if n.children[name] != nil {
			return fail(unix.EEXIST)
		}
		f := p.m.add(n, name, unix.S_IFREG|0o644, "")
		return [][]byte{p.entry(f), p.open(f)}, 0, false
	case fp.OpLink:
		in, rest := exact[fp.LinkIn](p, h, b)
		f := p.nodes[in.OldNodeID]
		if f == nil {
			p.violation("LINK of node %#x", in.OldNodeID)
			return fail(unix.EIO)
		}
		f.nlink++
		n.link(cstrings(rest)[0], f)
		return one(p.entry(f))
	case fp.OpUnlink, fp.OpRmdir:
		name := cstrings(b)[0]
		f := n.children[name]
		if f == nil {
			return fail(unix.ENOENT)
		}
		f.nlink--
		n.unlink(name)
		return nil, 0, false
	case fp.OpRename, fp.OpRename2:
		var in fp.Rename2In
		size := fp.Size[fp.RenameIn]()
		if op == fp.OpRename2 {
			size = fp.Size[fp.Rename2In]()
		}
		copy(fp.Bytes(&in), b[:size])
		names, to := cstrings(b[size:]), p.nodes[in.NewDir]
		if to == nil {
			p.violation("RENAME to node %#x", in.NewDir)
			return fail(unix.EIO)
		}
		f := n.children[names[0]]
		if f == nil {
			return fail(unix.ENOENT)
		}
		n.unlink(names[0])
		to.link(names[1], f)
		return nil, 0, false
	}
	return p.handleXattr(op, h, n, b)
}

func (p *process) handleXattr(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) (parts [][]byte, errno unix.Errno, silent bool) {
	var value string
	switch op {
	case fp.OpSetxattr:
		in, rest := bodyAs[fp.SetxattrIn](p, h, b, fp.CompatSetxattrInSize)
		name, value, _ := bytes.Cut(rest, []byte{0})
		if len(value) != int(in.Size) {
			p.violation("SETXATTR of %d bytes with %d", in.Size, len(value))
		}
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[string(name)] = string(value)
		return nil, 0, false
	case fp.OpRemovexattr:
		delete(n.xattrs, cstrings(b)[0])
		return nil, 0, false
	case fp.OpGetxattr:
		_, rest := exact[fp.GetxattrIn](p, h, b)
		v, ok := n.xattrs[cstrings(rest)[0]]
		if !ok {
			return nil, unix.ENODATA, false
		}
		value = v
	case fp.OpListxattr:
		for name := range n.xattrs {
			value += name + "\x00"
		}
	default:
		return nil, unix.ENOSYS, false
	}
	in, _ := exact[fp.GetxattrIn](p, h, b)
	switch {
	case in.Size == 0:
		return [][]byte{bytes.Clone(fp.Bytes(&fp.GetxattrOut{Size: uint32(len(value))}))}, 0, false
	case int(in.Size) < len(value):
		return nil, unix.ERANGE, false
	}
	return [][]byte{[]byte(value)}, 0, false
}

func (p *process) make(dir *mfile, name string, mode uint32, data string) ([][]byte, unix.Errno, bool) {
	if dir.children[name] != nil {
		return nil, unix.EEXIST, false
	}
	return [][]byte{p.entry(p.m.add(dir, name, mode, data))}, 0, false
}

func (p *process) write(h *fp.InHeader, n *mfile, b []byte) ([][]byte, unix.Errno, bool) {
	size := fp.Size[fp.WriteIn]()
	if p.m.minor < 9 {
		size = compatWriteSize
	}
	in, data := bodyAs[fp.WriteIn](p, h, b, size)
	p.file(h, in.Fh, n)
	if len(data) != int(in.Size) {
		p.violation("WRITE of %d bytes with %d", in.Size, len(data))
	}
	if in.Offset > 1<<24 {
		return nil, unix.EFBIG, false
	}
	end := int(in.Offset) + len(data)
	n.data = append(n.data, make([]byte, max(0, end-len(n.data)))...)
	copy(n.data[in.Offset:], data)
	return [][]byte{bytes.Clone(fp.Bytes(&fp.WriteOut{Size: in.Size}))}, 0, false
}

// positionOf are positions that look like addresses.
func positionOf(i int) uint64 { return 0x7fff_0000_0000_0000 - uint64(i)*4096 }

func (p *process) readdir(op fp.Opcode, h *fp.InHeader, n *mfile, b []byte) ([][]byte, unix.Errno, bool) {
	in, _ := exact[fp.ReadIn](p, h, b)
	p.file(h, in.Fh, n)
	given := p.given[in.Fh]
	if given == nil || !given[in.Offset] {
		p.violation("%s from %#x, which was not given", op, in.Offset)
		return nil, unix.EIO, false
	}
	at := 0
	for in.Offset != 0 && positionOf(at) != in.Offset {
		at++
	}
	names := append([]string{".", ".."}, n.names...)
	var out []byte
	for ; at < len(names); at++ {
		name := names[at]
		f := n.children[name]
		var rec []byte
		d := fp.Dirent{Ino: 1, Off: positionOf(at + 1), NameLen: uint32(len(name)), Type: unix.S_IFDIR >> 12}
		if f != nil {
			d.Ino, d.Type = p.attr(f).Ino, f.mode&unix.S_IFMT>>12
		}
		size := fp.DirentAlign(24 + len(name))
		if op == fp.OpReaddirplus {
			size = fp.DirentAlign(152 + len(name))
		}
		if len(out)+size > int(in.Size) {
			break
		}
		if op == fp.OpReaddirplus {
			if f != nil {
				rec = p.entry(f)
			} else {
				rec = make([]byte, fp.Size[fp.EntryOut]())
			}
		}
		rec = append(append(rec, fp.Bytes(&d)...), name...)
		out = append(append(out, rec...), make([]byte, size-len(rec))...)
		given[d.Off] = true
	}
	return [][]byte{out}, 0, false
}
