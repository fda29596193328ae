package frontend

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// DAXFlags are the flags of a Linux guest with a window, in addition to
// AllFlags.
const DAXFlags = fp.InitMapAlignment | fp.InitHasInodeDAX

// SetupMapping maps length bytes of an open file from fileOffset on at offset in the
// window. Linux gives no handle: it maps by node alone, with fh all ones.
func (c *Client) SetupMapping(node, fh, fileOffset, length, offset, flags uint64) error {
	in := fp.SetupMappingIn{Fh: fh, Foffset: fileOffset, Len: length, Flags: flags, Moffset: offset}
	_, err := c.Do(&Request{Op: fp.OpSetupMapping, NodeID: node, Body: bytesOf(in)})
	return err
}

// RemoveMapping takes mappings away.
func (c *Client) RemoveMapping(node uint64, list ...fp.RemoveMappingOne) error {
	return c.RemoveMappingCount(node, uint32(len(list)), list...)
}

// RemoveMappingCount is RemoveMapping with a count of its own.
func (c *Client) RemoveMappingCount(node uint64, count uint32, list ...fp.RemoveMappingOne) error {
	b := bytesOf(fp.RemoveMappingIn{Count: count})
	for i := range list {
		b = append(b, bytesOf(list[i])...)
	}
	_, err := c.Do(&Request{Op: fp.OpRemoveMapping, NodeID: node, Body: b})
	return err
}

// ReadToWindow reads up to size bytes of a file into what is mapped at offset at of the
// window: an O_DIRECT read into a mapped file does so. The window's mappings must be
// guest memory, see WindowOptions.MemReg.
func (c *Client) ReadToWindow(node, fh, off uint64, size int, at uint64) (int, error) {
	r := &Request{Op: fp.OpRead, NodeID: node, Body: bytesOf(fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)})}
	return c.withWindow(r, func(bufs []Buf) []Buf {
		return append(bufs, Buf{At: windowAt(at), Len: size, Write: true})
	})
}

// WriteFromWindow writes size bytes that are mapped at offset at of the window to a file;
// see ReadToWindow.
func (c *Client) WriteFromWindow(node, fh, off uint64, size int, at uint64) (int, error) {
	r := &Request{Op: fp.OpWrite, NodeID: node, Body: bytesOf(fp.WriteIn{Fh: fh, Offset: off, Size: uint32(size)}),
		Reply: fp.Size[fp.WriteOut]()}
	r.Len = uint32(fp.Size[fp.InHeader]() + len(r.Body) + size)
	return c.withWindow(r, func(bufs []Buf) []Buf {
		return []Buf{bufs[0], {At: windowAt(at), Len: size}, bufs[1]}
	})
}

// windowAt is an offset in the window as one in the memory, to which it does not belong.
func windowAt(off uint64) int { return WindowGuestBase - GuestBase + int(off) }

// withWindow sends a request with buffers changed and returns how much data was moved.
func (c *Client) withWindow(r *Request, change func([]Buf) []Buf) (int, error) {
	q := c.Queues[len(c.Queues)-1]
	s := <-q.free
	select { // of an earlier request that was given up
	case <-s.done:
	default:
	}
	q.Submit(s, change(c.build(s, r)))
	select {
	case n := <-s.done:
		defer func() { q.free <- s }()
		h, rest, _ := fp.View[fp.OutHeader](s.In)
		switch {
		case n < 16:
			return 0, fmt.Errorf("%s: reply of %d bytes", r.Op, n)
		case h.Error != 0:
			return 0, unix.Errno(-h.Error)
		case r.Op == fp.OpWrite:
			out, err := reply[fp.WriteOut](rest, nil)
			return int(out.Size), err
		}
		return int(n) - 16, nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("%s: %w", r.Op, ErrTimeout) // the slot is lost
	}
}
