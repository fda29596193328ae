package frontend

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// newSlots makes a queue without a back-end.
func newSlots(t *testing.T, o Options) *Queue {
	t.Helper()
	f := &Frontend{opts: o, memfd: -1}
	if err := f.allocate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, q := range f.Queues {
			q.close()
		}
		_ = unix.Munmap(f.mem)
		_ = unix.Close(f.memfd)
	})
	return f.Queues[1]
}

// part is a descriptor as a test looks at it: where it points in the slot's memory.
type part struct {
	Where string
	Off   int
	Len   int
	Write bool
}

// walk follows a slot's chain from its head as a device would.
func walk(t *testing.T, q *Queue, s *Slot) (parts []part) {
	t.Helper()
	table, i, n := q.descAt, int(s.head), int(q.size)
	if d := *at[Desc](q.f.mem, table+16*i); d.Flags == DescIndirect {
		table, i, n = int(d.Addr-GuestBase), 0, int(d.Len/16)
		if d.Len%16 != 0 || table%16 != 0 {
			t.Errorf("indirect table of %d bytes at %#x", d.Len, table)
		}
	}
	for {
		if len(parts) >= n {
			t.Fatalf("the chain is longer than its table of %d", n)
		}
		d := *at[Desc](q.f.mem, table+16*i)
		off := int(d.Addr - GuestBase)
		p := part{Len: int(d.Len), Write: d.Flags&DescWrite != 0}
		switch {
		case off >= s.dataAt && off+p.Len <= s.dataAt+len(s.Data):
			p.Where, p.Off = "data", off-s.dataAt
		case off >= s.inAt && off+p.Len <= s.inAt+len(s.In):
			p.Where, p.Off = "in", off-s.inAt
		case off >= s.outAt && off+p.Len <= s.outAt+len(s.Out):
			p.Where, p.Off = "out", off-s.outAt
		default:
			t.Fatalf("descriptor at %#x is in no part of the slot", off)
		}
		parts = append(parts, p)
		if d.Flags&DescNext == 0 {
			return parts
		}
		i = int(d.Next)
	}
}

func TestShapes(t *testing.T) {
	read := Shape{Args: 40, Read: 10000}
	write := Shape{Args: 40, Send: 8192, Reply: 8}
	tests := []struct {
		name  string
		opts  Options
		shape Shape
		want  []part
	}{
		{"like Linux", Options{Indirect: true}, Shape{Args: 16, Reply: 104},
			[]part{{"out", 0, 40, false}, {"out", 40, 16, false}, {"in", 0, 16, true}, {"in", 16, 104, true}}},
		{"no arguments, no body", Options{Indirect: true}, Shape{},
			[]part{{"out", 0, 40, false}, {"in", 0, 16, true}}},
		{"no reply", Options{Indirect: true}, Shape{Args: 8, Reply: -1},
			[]part{{"out", 0, 40, false}, {"out", 40, 8, false}}},
		{"write", Options{Indirect: true}, write,
			[]part{{"out", 0, 40, false}, {"out", 40, 40, false}, {"data", 0, 8192, false}, {"in", 0, 16, true}, {"in", 16, 8, true}}},
		{"chunks", Options{Indirect: true, Chunk: 4096}, read,
			[]part{{"out", 0, 40, false}, {"out", 40, 40, false}, {"in", 0, 16, true},
				{"data", 0, 4096, true}, {"data", 4096, 4096, true}, {"data", 8192, 10000 - 8192, true}}},
		{"in the ring", Options{}, write,
			[]part{{"out", 0, 80, false}, {"data", 0, 8192, false}, {"in", 0, 24, true}}},
		{"in the ring, data from the device", Options{}, read,
			[]part{{"out", 0, 80, false}, {"in", 0, 16, true}, {"data", 0, 10000, true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Queues, tt.opts.QueueSize, tt.opts.Slots, tt.opts.Data = 1, 32, 8, 64<<10
			q := newSlots(t, tt.opts)
			for _, s := range q.Slots {
				s.SetShape(Shape{Args: 1, Reply: 1}) // must leave nothing behind
				s.SetShape(tt.shape)
				if got := walk(t, q, s); !slices.Equal(got, tt.want) {
					t.Errorf("slot %d:\ngot  %v\nwant %v", s.Index(), got, tt.want)
				}
				if want := uint32(40 + tt.shape.Args + tt.shape.Send); s.Header().Len != want {
					t.Errorf("header says %d bytes, want %d", s.Header().Len, want)
				}
			}
		})
	}
}

// TestChunksFitQueue: a chain may not be longer than the queue, whatever is asked for.
func TestChunksFitQueue(t *testing.T) {
	q := newSlots(t, Options{Queues: 1, QueueSize: 16, Slots: 2, Data: 1 << 20, Indirect: true, Chunk: 4096})
	s := q.Slots[1]
	s.SetShape(Shape{Args: 40, Read: 1 << 20})
	parts := walk(t, q, s)
	if len(parts) > 16 {
		t.Errorf("chain of %d descriptors in a queue of 16", len(parts))
	}
	sum := 0
	for _, p := range parts {
		if p.Where == "data" {
			if p.Off != sum {
				t.Fatalf("data at %d, want %d", p.Off, sum)
			}
			sum += p.Len
		}
	}
	if sum != 1<<20 {
		t.Errorf("%d bytes of data, want 1 MiB", sum)
	}
}

// TestSlotsApart: no two slots share memory, descriptors or a table.
func TestSlotsApart(t *testing.T) {
	for _, o := range []Options{{Indirect: true, Slots: 128}, {Slots: 32}} {
		o.Queues, o.QueueSize, o.Data = 2, 128, 4096
		q := newSlots(t, o)
		if len(q.Slots) != o.Slots {
			t.Errorf("%d slots, want %d", len(q.Slots), o.Slots)
		}
		type span struct{ from, to int }
		var spans []span
		for _, s := range q.Slots {
			spans = append(spans, span{s.outAt, s.outAt + headBytes}, span{s.inAt, s.inAt + replyMax},
				span{s.tableAt, s.tableAt + 16*tableLen(&o)}, span{s.dataAt, s.dataAt + o.Data})
			if s.outAt%8 != 0 || s.inAt%8 != 0 || s.tableAt%16 != 0 || s.dataAt%pageSize != 0 {
				t.Errorf("slot %d is not aligned", s.index)
			}
		}
		end := q.base + ringBytes(q.size)
		for _, s := range spans {
			if s.from < end {
				t.Fatalf("memory at %#x begins before %#x, the end of what comes before", s.from, end)
			}
			end = s.to
		}
		if limit := q.base + queueBytes(&o); end > limit {
			t.Errorf("the last slot ends at %#x, behind the queue's end %#x", end, limit)
		}
	}
}

func TestHeaderLengths(t *testing.T) {
	if fp.Size[fp.InHeader]() != inHeaderLen || fp.Size[fp.OutHeader]() != outHeaderLen {
		t.Error("the headers' lengths are wrong")
	}
}

func TestShapeOf(t *testing.T) {
	for _, tt := range []struct {
		op         fp.Opcode
		args, data int
		want       Shape
	}{
		{fp.OpGetattr, 0, 0, Shape{Args: 16, Reply: 104}},
		{fp.OpLookup, 5, 0, Shape{Args: 5, Reply: 128}},
		{fp.OpForget, 0, 0, Shape{Args: 8, Reply: -1}},
		{fp.OpRead, 0, 4096, Shape{Args: 40, Read: 4096}},
		{fp.OpWrite, 0, 4096, Shape{Args: 40, Send: 4096, Reply: 8}},
		{fp.OpUnlink, 5, 0, Shape{Args: 5}},
	} {
		if got := ShapeOf(tt.op, tt.args, tt.data); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.op, got, tt.want)
		}
	}
}
