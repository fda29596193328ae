package main

import (
	"context"
	"io"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// blockSize is how much of a file is kept in one piece. A hole has no blocks.
const blockSize = 64 << 10

// data is what is in a regular file.
type data struct {
	fs *memory

	mu     sync.RWMutex // guards the following; memory.mu is taken before it
	size   int64
	blocks map[int64][]byte // by number; the last one of a file may be shorter than blockSize
	bytes  int64            // that they take
	ended  bool
}

// attr fills in the size.
func (d *data) attr(a *vfs.Attr) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	a.Size = d.size
	a.Blocks = uint64(d.bytes+511) / 512
	if d.bytes == 0 && d.size > 0 {
		a.Blocks = vfs.NoBlocks
	}
}

// block is a block with at least n bytes, which it makes.
func (d *data) block(i, n int64) ([]byte, error) {
	b := d.blocks[i]
	if int64(len(b)) >= n {
		return b, nil
	}
	size := min((max(n, 2*int64(len(b)))+blockUnit-1)/blockUnit*blockUnit, blockSize)
	if err := d.fs.take(size - int64(len(b))); err != nil {
		return nil, err
	}
	d.bytes += size - int64(len(b))
	grown := make([]byte, size)
	copy(grown, b)
	if d.blocks == nil {
		d.blocks = make(map[int64][]byte)
	}
	d.blocks[i] = grown
	return grown, nil
}

// drop frees a block.
func (d *data) drop(i int64) {
	n := int64(len(d.blocks[i]))
	delete(d.blocks, i)
	d.bytes -= n
	_ = d.fs.take(-n)
}

// each calls do for each block of the range, with the part of it.
func each(off, end int64, do func(i, from, to int64) error) error {
	for off < end {
		i, from := off/blockSize, off%blockSize
		to := min(blockSize, from+end-off)
		if err := do(i, from, to); err != nil {
			return err
		}
		off += to - from
	}
	return nil
}

// zero makes the range read as zeros, and frees what it can.
func (d *data) zero(off, end int64) {
	if end-off > int64(len(d.blocks))*blockSize { // most of it is holes
		for i := range d.blocks {
			d.clear(i, max(off-i*blockSize, 0), min(end-i*blockSize, blockSize))
		}
		return
	}
	_ = each(off, end, func(i, from, to int64) error {
		d.clear(i, from, to)
		return nil
	})
}

// clear is zero for a part of one block.
func (d *data) clear(i, from, to int64) {
	b := d.blocks[i]
	switch {
	case from >= to:
	case from == 0 && to >= int64(len(b)):
		d.drop(i)
	case from < int64(len(b)):
		clear(b[from:min(to, int64(len(b)))])
	}
}

func (d *data) truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return unix.ESTALE
	}
	if size < d.size {
		d.zero(size, math.MaxInt64)
	}
	d.size = size
	return nil
}

// end frees all.
func (d *data) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zero(0, math.MaxInt64)
	d.size, d.ended = 0, true
}

func (d *data) read(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := min(int64(len(p)), max(d.size-off, 0))
	_ = each(off, off+n, func(i, from, to int64) error {
		part := p[i*blockSize+from-off:][:to-from]
		got := 0
		if b := d.blocks[i]; from < int64(len(b)) {
			got = copy(part, b[from:])
		}
		clear(part[got:])
		return nil
	})
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (d *data) write(p []byte, off int64) (n int, err error) {
	if off > math.MaxInt64-int64(len(p)) {
		return 0, unix.EFBIG
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return 0, unix.ESTALE
	}
	err = each(off, off+int64(len(p)), func(i, from, to int64) error {
		b, err := d.block(i, to)
		if err == nil {
			n += copy(b[from:to], p[n:])
		}
		return err
	})
	d.size = max(d.size, off+int64(n))
	return n, err
}

func (d *data) allocate(mode uint32, off, length int64) error {
	if length == 0 {
		return unix.EINVAL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	end := off + length
	switch {
	case d.ended:
		return unix.ESTALE
	case mode == unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE:
		d.zero(off, end)
		return nil
	case mode&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_ZERO_RANGE) != 0:
		return unix.EOPNOTSUPP
	case length > d.fs.max:
		return unix.ENOSPC
	}
	if mode&unix.FALLOC_FL_ZERO_RANGE != 0 {
		d.zero(off, end)
	}
	if err := each(off, end, func(i, _, to int64) error {
		_, err := d.block(i, to)
		return err
	}); err != nil {
		return err
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		d.size = max(d.size, end)
	}
	return nil
}

func (d *data) findHole(off int64, hole bool) (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off >= d.size {
		return 0, unix.ENXIO
	}
	if hole {
		for len(d.blocks[off/blockSize]) > int(off%blockSize) {
			off += int64(len(d.blocks[off/blockSize])) - off%blockSize
		}
		return min(off, d.size), nil
	}
	next := int64(math.MaxInt64) // the holes may be many, and the blocks are as many as there is memory
	for i, b := range d.blocks {
		if end := i*blockSize + int64(len(b)); end > off {
			next = min(next, max(i*blockSize, off))
		}
	}
	if next >= d.size {
		return 0, unix.ENXIO
	}
	return next, nil
}

// FindHole implements vfs.HoleFinder.
func (n *node) FindHole(_ context.Context, off int64, hole bool) (int64, error) {
	if n.kind != 0 {
		return 0, unix.ESPIPE
	}
	return n.data.findHole(off, hole)
}

// Read implements vfs.Reader.
func (n *node) Read(_ context.Context, p []byte, off int64) (int, error) {
	switch {
	case n.names != nil:
		return 0, unix.EISDIR
	case n.kind != 0:
		return 0, unix.EINVAL
	}
	k, err := n.data.read(p, off)
	n.accessed()
	return k, err
}

// accessed sets the time of the last access, as rarely as the mount option relatime does.
func (n *node) accessed() {
	m := n.fs
	now := time.Now()
	old := func() bool {
		a := &n.attr
		return !a.Atime.After(a.Mtime) || !a.Atime.After(a.Ctime) || now.Sub(a.Atime) > 24*time.Hour
	}
	m.mu.RLock()
	yes := old()
	m.mu.RUnlock()
	if yes {
		m.mu.Lock()
		defer m.mu.Unlock()
		n.attr.Atime = now
	}
}

// Write implements vfs.Writer.
func (n *node) Write(_ context.Context, p []byte, off int64) (int, error) {
	if n.kind != 0 {
		return 0, unix.EINVAL
	}
	k, err := n.data.write(p, off)
	n.written(k > 0)
	return k, err
}

func (n *node) written(yes bool) {
	if yes {
		n.fs.mu.Lock()
		defer n.fs.mu.Unlock()
		n.changed()
	}
}

// Allocate implements vfs.Allocater.
func (n *node) Allocate(_ context.Context, mode uint32, off, length int64) error {
	if n.kind != 0 {
		return unix.ENODEV
	}
	err := n.data.allocate(mode, off, length)
	n.written(err == nil)
	return err
}
