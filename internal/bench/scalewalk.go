package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// nodeTable is what a guest knows about the files of a directory: the node of each and
// how often it was looked up. The index is the number in the name.
type nodeTable struct {
	nodes  []uint64
	counts []uint64
}

// fileNumber is the number in a name of fileName, or -1.
func fileNumber(name []byte) (n int) {
	const prefix = "file-"
	if len(name) <= len(prefix) || string(name[:len(prefix)]) != prefix {
		return -1
	}
	for _, c := range name[len(prefix):] {
		if c < '0' || c > '9' || n > 1<<30 {
			return -1
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// found notes an entry with attributes, which counts as a lookup.
func (t *nodeTable) found(name []byte, node uint64) error {
	i := fileNumber(name)
	if i < 0 || i >= len(t.nodes) || node == 0 {
		return nil // "." or "..", or a name without attributes
	}
	if t.nodes[i] != 0 && t.nodes[i] != node {
		return fmt.Errorf("%s is node %d and was %d", name, node, t.nodes[i])
	}
	t.nodes[i] = node
	t.counts[i]++
	return nil
}

// known is the number of known nodes.
func (t *nodeTable) known() (n int) {
	for _, c := range t.counts {
		if c > 0 {
			n++
		}
	}
	return n
}

// walk reads a directory, one request after the other, as a process in a guest does. It
// is a frontend.Source for a Pipe of depth 1.
type walk struct {
	node, fh uint64
	plus     bool
	size     int // bytes of a reply
	off      uint64
	requests int           // at most; 0 is to the end
	again    time.Duration // begin again until so much time is over
	table    *nodeTable    // gets the nodes, if plus
	each     func(entries int, off uint64)

	ctx     context.Context // no listing begins again after its end
	pipe    *frontend.Pipe
	begun   int64
	ended   bool
	sent    int
	entries int
	latency Hist
}

// Next implements frontend.Source.
func (w *walk) Next(s *frontend.Slot) bool {
	if w.ended || w.requests > 0 && w.sent == w.requests {
		return false
	}
	if w.sent == 0 {
		w.begun = w.pipe.Now
	}
	w.sent++
	op := fp.OpReaddir
	if w.plus {
		op = fp.OpReaddirplus
	}
	request(s, op, w.node, 0, w.size)
	*frontend.ArgsOf[fp.ReadIn](s) = fp.ReadIn{Fh: w.fh, Offset: w.off, Size: uint32(w.size)}
	return true
}

// Done implements frontend.Source.
func (w *walk) Done(s *frontend.Slot) error {
	w.latency.Record(w.pipe.Now - s.Sent())
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", fp.Opcode(s.Header().Opcode), err)
	}
	n, off, err := w.parse(s.Data[:s.Written()-fp.Size[fp.OutHeader]()])
	if err != nil {
		return err
	}
	w.entries += n
	w.off = off
	if w.each != nil && n > 0 {
		w.each(w.entries, off)
	}
	if n == 0 {
		w.off = 0
		w.ended = w.pipe.Now-w.begun >= int64(w.again) || w.ctx.Err() != nil
	}
	return nil
}

var errCut = errors.New("an entry of a listing is cut off")

// parse reads a reply. It returns the number of entries and the offset of the next
// one, which is 0 if there is none.
func (w *walk) parse(b []byte) (n int, off uint64, err error) {
	for len(b) > 0 {
		var node uint64
		if w.plus {
			e, rest, ok := fp.View[fp.EntryOut](b)
			if !ok {
				return n, off, errCut
			}
			node, b = e.NodeID, rest
		}
		d, rest, ok := fp.View[fp.Dirent](b)
		size := 0
		if ok {
			size = fp.DirentAlign(fp.Size[fp.Dirent]() + int(d.NameLen))
		}
		if !ok || size > len(b) {
			return n, off, errCut
		}
		if w.plus {
			if err := w.table.found(rest[:d.NameLen], node); err != nil {
				return n, off, err
			}
		}
		off, b = d.Off, b[size:]
		n++
	}
	return n, off, nil
}
