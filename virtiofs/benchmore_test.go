package virtiofs

import (
	"encoding/binary"
	"strconv"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// moreWorkloads are for BenchmarkRequest: they allocate memory, or tell the client of many nodes by one request.
// In readdirplus, slots operations are one request for 256 entries on average; in create, an operation is one of
// CREATE, RELEASE, UNLINK and FORGET.
func moreWorkloads() []workload {
	var of *bench
	var fh, offset uint64
	return []workload{
		{"readdirplus", func(x *bench, slot, i int) { // one request a round; all entries in two
			if slot != 0 {
				return
			}
			if of != x {
				of, fh = x, binary.NativeEndian.Uint64(x.one(fp.OpOpendir, x.dir, make([]byte, 8), 16))
			}
			if i/slots%2 == 0 {
				offset = 0
			} else {
				_, reply := x.reply(0)
				offset = lastOffset(reply)
			}
			read := fp.ReadIn{Fh: fh, Offset: offset, Size: 64<<10 - 16}
			x.send(slot, fp.OpReaddirplus, x.dir, fp.Bytes(&read), 64<<10-16)
		}},
		{"create", createWorkload()},
	}
}

// lastOffset is the position behind the last entry of a reply.
func lastOffset(b []byte) (off uint64) {
	for len(b) > 0 {
		off = binary.NativeEndian.Uint64(b[136:])
		n := int(binary.NativeEndian.Uint32(b[144:]))
		b = b[(152+n+7)&^7:]
	}
	return off
}

// createWorkload makes a file in each slot, then closes, removes and forgets it.
func createWorkload() func(x *bench, slot, i int) {
	var names [slots][]byte
	for i := range names {
		names[i] = append([]byte("new"+strconv.Itoa(i)), 0)
	}
	create := fp.CreateIn{Flags: 2, Mode: 0o100644}
	var node, fhs [slots]uint64
	return func(x *bench, slot, i int) {
		switch i / slots % 4 {
		case 0:
			x.send(slot, fp.OpCreate, x.dir, append(fp.Bytes(&create)[:16:16], names[slot]...), 144)
		case 1:
			_, reply := x.reply(slot)
			node[slot], fhs[slot] = binary.NativeEndian.Uint64(reply), binary.NativeEndian.Uint64(reply[128:])
			release := fp.ReleaseIn{Fh: fhs[slot]}
			x.send(slot, fp.OpRelease, node[slot], fp.Bytes(&release), 0)
		case 2:
			x.send(slot, fp.OpUnlink, x.dir, names[slot], 0)
		case 3:
			n := [1]uint64{1}
			x.send(slot, fp.OpForget, node[slot], binary.NativeEndian.AppendUint64(nil, n[0]), 0)
		}
	}
}
