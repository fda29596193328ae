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
	r := NewReader(bytes.NewReader(whole))
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
	// Whatever is missing is noticed.
	for n := range len(whole) {
		r := NewReader(bytes.NewReader(whole[:n]))
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
	r := NewReader(bytes.NewReader([]byte{200, 1})) // 200
	if r.Bytes(199); r.Err() == nil {
		t.Error("a string longer than allowed was read")
	}
	r = NewReader(bytes.NewReader([]byte{7, 1}))
	if r.Max(7); r.Err() != nil {
		t.Error(r.Err())
	}
	if r.End(); r.Err() == nil {
		t.Error("data after the end were not noticed")
	}
	r = NewReader(bytes.NewReader(bytes.Repeat([]byte{0xff}, 11)))
	if r.Uint(); r.Err() == nil {
		t.Error("a number of more than 64 bits was read")
	}
}
