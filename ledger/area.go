package ledger

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// AreaKind names an area.
type AreaKind int

// The areas, each with the package that writes it. That package defines the content, and the
// ledger's version covers it.
const (
	AreaConn    AreaKind = iota // vhostuser: what the front-end has said
	AreaSession                 // server: the result of INIT
	AreaFS                      // passthrough: what was agreed on, and mounts
	AreaEvents                  // events: the helper in the guest
	AreaChannel                 // vhostuser: what the front-end was asked
	numAreas
)

// MaxArea is how many bytes an area has at most.
const MaxArea = 4 << 20

// areaHeader is followed by two copies of MaxArea bytes. The lower bit of seq says which of the
// two counts; the other one is being written.
type areaHeader struct {
	seq  uint64
	size [2]uint32
}

const areaStride = pageSize + 2*MaxArea

// Area is a record of bytes that is replaced as a whole: a successor finds the old or the new
// one, whenever its writer died. It has one writer at a time. A nil *Area forgets all.
type Area struct {
	ledger *Ledger
	at     int64
	header *areaHeader
	memory [2]int64 // how much of each copy has memory
}

// Area returns an area; an error is want of memory.
func (l *Ledger) Area(k AreaKind) (*Area, error) {
	if l == nil {
		return nil, nil
	}
	at := areasAt + int64(k)*areaStride
	if err := l.need(at, pageSize); err != nil {
		return nil, err
	}
	return &Area{ledger: l, at: at, header: (*areaHeader)(l.at(at))}, nil
}

// Store replaces what is in the area.
func (a *Area) Store(b []byte) error {
	if a == nil {
		return nil
	}
	if len(b) > MaxArea {
		return fmt.Errorf("ledger: a record of %d bytes: at most %d fit", len(b), MaxArea)
	}
	seq := atomic.LoadUint64(&a.header.seq) + 1
	at := a.copyAt(seq)
	if have := &a.memory[seq&1]; int64(len(b)) > *have {
		if err := a.ledger.need(at, int64(len(b))); err != nil {
			return err
		}
		*have = int64(len(b))
	}
	copy(unsafe.Slice((*byte)(a.ledger.at(at)), len(b)), b)
	atomic.StoreUint32(&a.header.size[seq&1], uint32(len(b)))
	atomic.StoreUint64(&a.header.seq, seq)
	return nil
}

// Load returns a copy of what is in the area; nil if nothing was stored.
func (a *Area) Load() []byte {
	if a == nil {
		return nil
	}
	seq := atomic.LoadUint64(&a.header.seq)
	size := min(atomic.LoadUint32(&a.header.size[seq&1]), MaxArea)
	if seq == 0 || size == 0 {
		return nil
	}
	if a.ledger.need(a.copyAt(seq), int64(size)) != nil {
		return nil
	}
	b := make([]byte, size)
	copy(b, unsafe.Slice((*byte)(a.ledger.at(a.copyAt(seq))), size))
	return b
}

func (a *Area) copyAt(seq uint64) int64 { return a.at + pageSize + int64(seq&1)*MaxArea }
