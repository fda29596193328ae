package record

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Uint(0, 127, 128, math.MaxUint64)
	w.Bytes([]byte("name\xff"))
	w.Bytes(nil)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	r := NewReader(bytes.NewReader(whole), math.MaxInt64)
	for _, want := range []uint64{0, 127, 128, math.MaxUint64} {
		if got := r.Uint(); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	if got := r.Bytes(5); string(got) != "name\xff" {
		t.Errorf("got %q", got)
	}
	if got := r.Bytes(0); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	r.End()
	if r.Err() != nil {
		t.Error(r.Err())
	}
	// Each missing byte is noticed.
	for n := range len(whole) {
		r := NewReader(bytes.NewReader(whole[:n]), math.MaxInt64)
		for range 4 {
			r.Uint()
		}
		r.Bytes(5)
		r.Bytes(5)
		if !errors.Is(r.Err(), io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), r.Err())
		}
	}
}

func TestLimits(t *testing.T) {
	r := NewReader(bytes.NewReader([]byte{200, 1}), math.MaxInt64) // 200
	if r.Bytes(199); r.Err() == nil {
		t.Error("a string longer than allowed was read")
	}
	r = NewReader(bytes.NewReader([]byte{7, 1}), math.MaxInt64)
	if r.Max(7); r.Err() != nil {
		t.Error(r.Err())
	}
	if r.End(); r.Err() == nil {
		t.Error("data after the end were not noticed")
	}
	r = NewReader(bytes.NewReader(bytes.Repeat([]byte{0xff}, 11)), math.MaxInt64)
	if r.Uint(); r.Err() == nil {
		t.Error("a number of more than 64 bits was read")
	}
}

// TestBytesLimit: data up to the limit are read, and one byte more is an error.
func TestBytesLimit(t *testing.T) {
	data := []byte{1, 2, 3}
	for limit := range int64(5) {
		r := NewReader(bytes.NewReader(data), limit)
		for range min(int(limit), len(data)) {
			r.Uint()
		}
		if r.Err() != nil {
			t.Errorf("limit %d: %v", limit, r.Err())
		}
		if r.End(); (r.Err() == nil) != (limit >= 3) {
			t.Errorf("limit %d: at the end %v", limit, r.Err())
		}
	}
}

// TestNested: NewWriter of a Writer and NewReader of a Reader return the same one, which
// reads ahead once. Unencoded bytes can stand between the values.
func TestNested(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Uint(1)
	if NewWriter(w) != w {
		t.Error("a second writer")
	}
	if _, err := io.WriteString(w, "raw"); err != nil {
		t.Error(err)
	}
	w.Uint(2)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&b, int64(b.Len()))
	raw := make([]byte, 3)
	first := r.Uint()
	_, err := io.ReadFull(r, raw)
	inner := NewReader(r, 0)
	second := inner.Uint()
	inner.End()
	if first != 1 || err != nil || string(raw) != "raw" || second != 2 || inner != r || r.Err() != nil {
		t.Errorf("%d, %q, %v, %d, %v", first, raw, err, second, r.Err())
	}
	if n, err := r.Read(raw); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
	r.Fail(io.ErrClosedPipe)
	if _, err := r.Read(raw); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after an error: %v", err)
	}
}
