package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// TestData: a file is what an array would be, and what it takes is counted.
func TestData(t *testing.T) {
	const room = 3*blockSize + 100
	m := newMemory(1<<30, 100)
	before := m.bytes.Load()
	d := &data{fs: m}
	model := []byte{}
	r := rand.New(rand.NewPCG(1, 2))
	grow := func(size int) {
		if size > len(model) {
			model = append(model, make([]byte, size-len(model))...)
		}
	}
	for i := range 3000 {
		off, n := r.IntN(room), r.IntN(blockSize)
		var err error
		switch r.IntN(5) {
		case 0, 1:
			p := bytes.Repeat([]byte{byte(i)}, n)
			if _, err = d.write(p, int64(off)); n > 0 {
				grow(off + n)
				copy(model[off:], p)
			}
		case 2:
			err = d.truncate(int64(off))
			grow(off)
			model = model[:off]
		case 3:
			err = d.allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n+1))
			clear(model[min(off, len(model)):min(off+n+1, len(model))])
		case 4:
			err = d.allocate(0, int64(off), int64(n+1))
			grow(off + n + 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(model)+10)
		k, err := d.read(got, 0)
		if !errors.Is(err, io.EOF) || !bytes.Equal(got[:k], model) {
			t.Fatalf("step %d: %d bytes differ from %d, %v", i, k, len(model), err)
		}
		checkHoles(t, d, model)
		var sum int64
		for _, b := range d.blocks {
			sum += int64(len(b))
		}
		if sum != d.bytes || m.bytes.Load() != before+sum {
			t.Fatalf("step %d: %d bytes, counted as %d and %d", i, sum, d.bytes, m.bytes.Load()-before)
		}
	}
	if d.end(); m.bytes.Load() != before || d.size != 0 {
		t.Errorf("%d bytes are left", m.bytes.Load()-before)
	}
	if _, err := d.write([]byte("x"), 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("write after the end: %v", err)
	}
}

// TestLimits: what all files take is bounded, and is given back.
func TestLimits(t *testing.T) {
	m := newMemory(1<<20, 3)
	ctx := t.Context()
	before := m.bytes.Load()
	child, _, err := m.root.Create(ctx, "a", 0, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	a := child.(*node)
	if n, err := a.Write(ctx, make([]byte, 2<<20), 0); !errors.Is(err, unix.ENOSPC) || n >= 1<<20 {
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := a.Write(ctx, []byte("x"), 1<<50); n != 0 && err != nil {
		t.Errorf("far away: %d, %v", n, err)
	}
	if err := a.Allocate(ctx, 0, 0, 1<<50); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("allocate: %v", err)
	}
	if err := a.Setxattr(ctx, "user.x", make([]byte, maxXattrs), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("xattr: %v", err)
	}
	if _, err := m.root.Mkdir(ctx, "b", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := m.root.Symlink(ctx, "x", "c"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("one file too many: %v", err)
	}
	a.Remember()
	if err := errors.Join(m.root.Remove(ctx, "a", false), m.root.Remove(ctx, "b", true)); err != nil {
		t.Fatal(err)
	}
	if attr, _ := a.Attr(ctx); attr.Nlink != vfs.NoLinks || attr.Size == 0 {
		t.Errorf("removed and open: %+v", attr)
	}
	if a.Forget(); m.bytes.Load() != before || m.files.Load() != 1 {
		t.Errorf("%d bytes and %d files are left", m.bytes.Load()-before, m.files.Load())
	}
}

// checkHoles: what is between the holes is all that is not zero, and what FindHole says is what there is.
func checkHoles(t *testing.T, d *data, model []byte) {
	t.Helper()
	for at := int64(0); ; {
		start, err := d.findHole(at, false)
		if errors.Is(err, unix.ENXIO) {
			start = int64(len(model))
		}
		if start < at || len(bytes.Trim(model[at:start], "\x00")) != 0 {
			t.Fatalf("data in the hole from %d to %d", at, start)
		}
		if err != nil {
			return
		}
		if at, err = d.findHole(start, true); err != nil || at <= start || at > int64(len(model)) {
			t.Fatalf("the data at %d ends at %d, %v", start, at, err)
		}
		if at == int64(len(model)) {
			return
		}
	}
}
