package frontend

import (
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	inHeaderLen  = 40 // struct fuse_in_header
	outHeaderLen = 16 // struct fuse_out_header
)

// Shape says how long the parts of a request are. A Linux guest gives each part that
// is not empty descriptors of its own, and so does a Pipe with indirect descriptors;
// back-ends have fast ways that depend on this.
type Shape struct {
	Args  int // what follows the header in Slot.Out
	Send  int // bytes of Slot.Data for the device
	Reply int // what follows the reply's header in Slot.In; less than 0: no reply
	Read  int // bytes of Slot.Data from the device
}

// ShapeOf is the shape of a request of an opcode. args is the size of its body and names
// together, in bytes; 0 means the body alone. data is the size of the data after the
// request or the reply, whichever has data.
func ShapeOf(op fp.Opcode, args, data int) Shape {
	o := op.Shape()
	sh := Shape{Args: max(args, o.Body), Reply: o.Reply}
	if o.NoReply {
		sh.Reply = -1
	}
	if o.Data&fp.ToServer != 0 {
		sh.Send = data
	} else {
		sh.Read = data
	}
	return sh
}

// Args is the memory of the request's arguments, behind its header.
func (s *Slot) Args() []byte { return s.Out[inHeaderLen:] }

// Header is the request's header. The Pipe sets Len and Unique.
func (s *Slot) Header() *fp.InHeader {
	h, _, _ := fp.View[fp.InHeader](s.Out)
	return h
}

// ArgsOf is the front of the arguments as a T, to be written in place.
func ArgsOf[T fp.Body](s *Slot) *T {
	v, _, _ := fp.View[T](s.Out[inHeaderLen:])
	return v
}

// ReplyOf is the front of the reply's body as a T. It is what the device has written
// only as far as Slot.Written says.
func ReplyOf[T fp.Body](s *Slot) *T {
	v, _, _ := fp.View[T](s.In[outHeaderLen:])
	return v
}

// SetShape lays the chain out. It stays for later requests, and setting the same
// shape again costs nothing.
func (s *Slot) SetShape(sh Shape) {
	if s.pipe.shaped && s.pipe.shape == sh {
		return
	}
	s.pipe.shape, s.pipe.shaped = sh, true
	s.Header().Len = uint32(inHeaderLen + sh.Args + sh.Send)
	indirect := s.q.f.indirect()
	s.writeChain(s.buffers(sh, indirect), indirect)
}

// buffers lists the parts. Without indirect descriptors, which are scarce, a header
// and what follows it share one.
func (s *Slot) buffers(sh Shape, indirect bool) []Buf {
	b := s.pipe.bufs[:0]
	part := func(at, n int, write bool) {
		if n > 0 {
			b = append(b, Buf{At: at, Len: n, Write: write})
		}
	}
	head := func(at, header, n int, write bool) {
		if !indirect {
			part(at, header+n, write)
			return
		}
		part(at, header, write)
		part(at+header, n, write)
	}
	data := func(n int, write bool) {
		chunk := s.chunk(n)
		for off := 0; off < n; off += chunk {
			part(s.dataAt+off, min(chunk, n-off), write)
		}
	}
	head(s.outAt, inHeaderLen, sh.Args, false)
	data(sh.Send, false)
	if sh.Reply >= 0 {
		head(s.inAt, outHeaderLen, sh.Reply, true)
	}
	data(sh.Read, true)
	s.pipe.bufs = b
	return b
}

// chunk is the size of the buffers for n bytes of data. A chain may not be longer than
// the queue (virtio 1.2, 2.7.5.3.1), in an indirect table as well.
func (s *Slot) chunk(n int) int {
	o := &s.q.f.opts
	if o.Chunk <= 0 || !o.Indirect {
		return max(n, 1)
	}
	most := int(o.QueueSize) - slotDescs
	for chunk := o.Chunk; ; chunk *= 2 {
		if (n+chunk-1)/chunk <= most {
			return chunk
		}
	}
}

// writeChain writes the descriptors of the slot.
func (s *Slot) writeChain(bufs []Buf, indirect bool) {
	q := s.q
	for i, b := range bufs {
		d := Desc{Addr: guestAddr(b.At), Len: uint32(b.Len)}
		if b.Write {
			d.Flags |= DescWrite
		}
		next := uint16(i + 1)
		if !indirect {
			next += s.head
		}
		if i < len(bufs)-1 {
			d.Flags, d.Next = d.Flags|DescNext, next
		}
		if indirect {
			*at[Desc](q.f.mem, s.tableAt+16*i) = d
		} else {
			q.SetDesc(s.head+uint16(i), d)
		}
	}
	if indirect {
		q.SetDesc(s.head, Desc{Addr: guestAddr(s.tableAt), Len: uint32(16 * len(bufs)), Flags: DescIndirect})
	}
}
