package vhostuser

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// What a connection has left is noted for a successor of this process, too: a front-end may come back to
// another process than the one that it has lost. The keeper holds the files of the guest's memory until it
// is decided whether the guest is the same. Then the numbers have where its rings continue, until they do.

// leftState is what the numbers have of an earlier connection.
type leftState uint64

const (
	leftNone  leftState = iota
	leftWaits           // memory and rings: it is not decided yet
	leftBack            // rings: the guest is the same
)

// descriptors are those that the keeper holds for l, which may be nil.
func (l *Left) descriptors() (list []Descriptor) {
	if l == nil || l.keeper == nil {
		return nil
	}
	for i := range l.regions {
		list = append(list, Descriptor{DescriptorRegion, l.regions[i].number})
	}
	return list
}

// has reports whether a region's descriptor is one of l's.
func (l *Left) has(number uint64) bool {
	return l != nil && l.keeper != nil && slices.ContainsFunc(l.regions, func(r regionNotes) bool { return r.number == number })
}

// regionNotes is how a successor maps memory again.
func (c *Conn) regionNotes(m *virtqueue.Memory) (list []regionNotes) {
	for _, region := range m.Regions() {
		n := c.recovery.regions[region]
		list = append(list, regionNotes{number: n.number, MemoryRegion: MemoryRegion{
			GuestAddr: region.GuestAddr, Size: uint64(len(region.Host)), UserAddr: region.UserAddr, MmapOffset: n.offset,
		}})
	}
	return list
}

// leftNumbers writes what there is of an earlier connection, or of this one when it has ended.
func (c *Conn) leftNumbers(w *record.Writer) {
	switch {
	case c.left != nil && c.left.keeper != nil:
		w.Uint(uint64(leftWaits), uint64(len(c.left.regions)))
		for i := range c.left.regions {
			r := &c.left.regions[i]
			w.Uint(r.number, r.MmapOffset, r.GuestAddr, r.UserAddr, r.Size)
		}
		leftRingNumbers(w, c.left.rings)
	case c.resumed != nil:
		w.Uint(uint64(leftBack))
		leftRingNumbers(w, c.resumed)
	default:
		w.Uint(uint64(leftNone))
	}
}

func leftRingNumbers(w *record.Writer, rings []leftRing) {
	for i := range rings {
		r := &rings[i]
		w.Uint(uint64(r.size), uint64(r.addr.Flags), r.addr.Desc, r.addr.Used, r.addr.Avail, r.addr.Log)
		w.Uint(uint64(r.position.Avail), uint64(r.position.Used), uint64(len(r.position.Heads)))
		for _, head := range r.position.Heads {
			w.Uint(uint64(head))
		}
	}
}

// notesOfLeft is what is stored when a connection has ended and its guest may come back.
func (c *Conn) notesOfLeft() []byte {
	if c.left == nil || c.left.keeper == nil {
		return nil
	}
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(notesLeft)
	c.leftNumbers(w)
	_ = w.Flush() // can't fail
	return b.Bytes()
}

// leftNotes is what another process has noted of an earlier connection.
type leftNotes struct {
	state   leftState
	regions []regionNotes
	rings   []leftRing
}

// readLeft reads what leftNumbers has written. The values may be forged.
func readLeft(r *record.Reader, rings int) (n leftNotes) {
	n.state = leftState(r.Max(uint64(leftBack)))
	if n.state == leftWaits {
		for range r.Max(maxRegions) {
			var g regionNotes
			g.number, g.MmapOffset, g.GuestAddr, g.UserAddr, g.Size = r.Uint(), r.Uint(), r.Uint(), r.Uint(), r.Uint()
			if r.Err() != nil {
				return n
			}
			n.regions = append(n.regions, g)
		}
	}
	if n.state == leftNone {
		return n
	}
	for range rings {
		var g leftRing
		g.size = uint16(r.Max(virtqueue.MaxSize))
		g.addr.Flags, g.addr.Desc, g.addr.Used = uint32(r.Max(1<<32-1)), r.Uint(), r.Uint()
		g.addr.Avail, g.addr.Log = r.Uint(), r.Uint()
		g.position.Avail, g.position.Used = uint16(r.Max(0xffff)), uint16(r.Max(0xffff))
		for range r.Max(uint64(g.size)) {
			if r.Err() != nil {
				return n
			}
			g.position.Heads = append(g.position.Heads, uint16(r.Max(uint64(max(g.size, 1)-1))))
		}
		n.rings = append(n.rings, g)
	}
	return n
}

// waiting makes what an earlier connection has left, whose guest was waited for; nil if none was. An error says
// that it is lost.
func (n *leftNotes) waiting(left *Inherited, keeper Keeper) (*Left, error) {
	if n.state != leftWaits {
		return nil, nil
	}
	regions, err := mapAgain(n.regions, left)
	if err != nil {
		return nil, err
	}
	memory, err := virtqueue.NewMemory(regions)
	for _, r := range regions {
		if err == nil && r.Origin == nil {
			err = errors.New("a region in a file that has a name")
		}
	}
	if err != nil {
		releaseRegions(regions)
		return nil, err
	}
	l := &Left{rings: n.rings, keeper: keeper, regions: n.regions, memory: memory}
	return l, nil
}

// ResumeLeft is what an earlier connection has left for another process that has died while it waited for the
// guest; nil if there is none. The result is given to a Conn's Follow, or dropped. Descriptors of left.Kept that do not
// belong to it are dropped. rings is how many the device has.
func ResumeLeft(left Inherited, rings int, keeper Keeper) (*Left, error) {
	n, ok, err := readLeftOnly(left.Notes, rings)
	var l *Left
	if ok && err == nil {
		l, err = n.waiting(&left, keeper)
	}
	for _, d := range left.Kept {
		if d.Kind != DescriptorRegion || !l.has(d.Number) {
			keeper.Drop(d)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("vhostuser: wait for the guest of another process: %w", err)
	}
	return l, nil
}

// Ended reports whether notes are of no connection: none has begun, or the last one has ended. What was noted of rings elsewhere
// then belongs to no ring of the connection that comes next, whose numbers of starts are the same (Vring.Start).
func Ended(notes []byte) bool {
	r := record.NewReader(bytes.NewReader(notes), int64(len(notes)))
	return len(notes) == 0 || r.Uint() == notesLeft && r.Err() == nil
}

// readLeftOnly reads what notesOfLeft has made; ok is false for something else.
func readLeftOnly(b []byte, rings int) (n leftNotes, ok bool, err error) {
	r := record.NewReader(bytes.NewReader(b), int64(len(b)))
	if len(b) == 0 || r.Uint() != notesLeft || r.Err() != nil {
		return n, false, nil
	}
	n = readLeft(r, rings)
	r.End()
	return n, true, r.Err()
}
