package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// pieces cuts b every n bytes, with an empty buffer in between now and then.
func pieces(b []byte, n int) Buffers {
	v := Over(slices.Collect(slices.Chunk(b, n))...)
	if len(v) > 1 {
		empty := v[1]
		empty.Len = 0
		v = slices.Insert(v, 1, empty)
	}
	return v
}

func bytesOf(b Buffers) (all []byte) {
	for i := range b {
		all = append(all, b.Piece(i)...)
	}
	return all
}

func TestBuffers(t *testing.T) {
	const size = 20
	text := []byte("abcdefghijklmnopqrst")
	for n := 1; n <= size+1; n++ {
		for skip := range size + 2 {
			for length := range size + 2 {
				b := pieces(bytes.Clone(text), n)
				if b.Len() != size {
					t.Fatalf("every %d bytes: length %d", n, b.Len())
				}
				want := text[min(skip, size):min(skip+length, size)]
				dst := make([]byte, length)
				if got := b.CopyTo(dst, uint64(skip)); got != len(want) || !bytes.Equal(dst[:got], want) {
					t.Errorf("every %d bytes: %d from %d on are %q, want %q", n, length, skip, dst[:got], want)
				}
				cut := b.Cut(nil, uint64(skip), uint64(length))
				if got := bytesOf(cut); !bytes.Equal(got, want) {
					t.Errorf("every %d bytes: cut of %d from %d on is %q, want %q", n, length, skip, got, want)
				}
				filled := bytes.Clone(text)
				fitted := copy(filled[min(skip, size):], bytes.Repeat([]byte{'X'}, length))
				if got := b.CopyFrom(bytes.Repeat([]byte{'X'}, length), uint64(skip)); got != fitted || !bytes.Equal(bytesOf(b), filled) {
					t.Errorf("every %d bytes: %d at %d give %q, want %q", n, length, skip, bytesOf(b), filled)
				}
				if got := bytesOf(cut); !bytes.Equal(got, bytes.Repeat([]byte{'X'}, len(want))) {
					t.Errorf("a cut does not share the memory: %q", got)
				}
			}
		}
	}
}

// TestBuffersLimits: numbers that a client makes up do not reach beyond the buffers.
func TestBuffersLimits(t *testing.T) {
	memory := make([]byte, 64)
	b := pieces(memory[8:40], 7)
	for _, n := range []uint64{32, 33, math.MaxInt64, math.MaxUint64} {
		if got := b.CopyFrom([]byte{1}, n); got != 0 {
			t.Errorf("%d bytes were copied to offset %d", got, n)
		}
		if got := b.CopyTo(make([]byte, 1), n); got != 0 {
			t.Errorf("%d bytes were copied from offset %d", got, n)
		}
		if got := b.Cut(nil, 0, n).Len(); got != 32 {
			t.Errorf("a cut of %d bytes has %d", n, got)
		}
		if got := b.Cut(nil, n, n).Len(); got != 0 {
			t.Errorf("a cut from %d on has %d bytes", n, got)
		}
	}
	if !bytes.Equal(memory, make([]byte, 64)) {
		t.Errorf("memory was written: %x", memory)
	}
	at := func(i int) uintptr { return uintptr(unsafe.Pointer(&memory[i])) }
	if b.Holds(at(7)) || !b.Holds(at(8)) || !b.Holds(at(39)) || b.Holds(at(40)) || Buffers(nil).Holds(0) {
		t.Error("Holds is wrong at an edge")
	}
}

// TestMessage: the header is one copy, and nothing of an earlier one stays.
func TestMessage(t *testing.T) {
	h := fp.InHeader{Len: 48, Opcode: uint32(fp.OpGetattr), Unique: 7, NodeID: 1}
	raw := append(bytes.Clone(fp.Bytes(&h)), make([]byte, 8)...)
	var m Message
	m.Set(pieces(raw, 5), nil)
	if m.Header != h {
		t.Errorf("header %+v, want %+v", m.Header, h)
	}
	raw[0] = 0xff
	if m.Header != h {
		t.Errorf("the client has changed the header: %+v", m.Header)
	}
	m.Set(pieces(raw[:39], 5), nil)
	if m.Header != (fp.InHeader{}) {
		t.Errorf("a header that is too short: %+v", m.Header)
	}
}

// TestAllocations: a transport that reuses its Message and a list for Cut allocates nothing.
func TestAllocations(t *testing.T) {
	in, out := pieces(make([]byte, 100), 9), pieces(make([]byte, 4096), 1000)
	var m Message
	var list Buffers
	if n := testing.AllocsPerRun(100, func() {
		m.Set(in, out)
		list = m.Out.Cut(list[:0], 16, 4000)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A file system answers READ with a copy, whatever the pieces are.
func ExampleBuffers_CopyFrom() {
	dst := Over(make([]byte, 3), make([]byte, 100)) // a client's memory
	n := dst.CopyFrom([]byte("Hello, world"), 0)
	fmt.Printf("%d bytes: %q, %q\n", n, dst.Piece(0), dst.Piece(1)[:n-3])
	// Output: 12 bytes: "Hel", "lo, world"
}

// TestFill: what there is gets into the pieces, from any offset that a client may send.
func TestFill(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		r    io.ReaderAt
		off  uint64
		want string
		err  error
	}{
		{strings.NewReader("0123456789"), 0, "01234567", nil},
		{strings.NewReader("0123456789"), 2, "23456789", nil}, // its end and that of the room
		{strings.NewReader("0123456789"), 7, "789", nil},
		{strings.NewReader("0123456789"), 10, "", nil},
		{strings.NewReader("0123456789"), math.MaxInt64, "", nil},
		{strings.NewReader("0123456789"), math.MaxInt64 + 1, "", nil},
		{strings.NewReader("0123456789"), math.MaxUint64, "", nil},
		{io.NewSectionReader(broken{failed}, 0, 100), 5, "xx", failed},
	} {
		a, b := make([]byte, 3), make([]byte, 5)
		n, err := Over(a, b).Fill(c.r, c.off)
		if got := string(append(a, b...)[:n]); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("from %d: %q and %v, want %q and %v", c.off, got, err, c.want, c.err)
		}
	}
}

// broken reads two bytes and fails.
type broken struct{ err error }

func (r broken) ReadAt(p []byte, _ int64) (int, error) { return copy(p, "xx"), r.err }
