package ledger

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/memfile"
)

// View looks at a ledger that another process may be writing, and changes nothing in it. What it
// says of one record may be half of what that was and half of what it is.
type View struct {
	Store  *Store // only methods that change nothing may be called
	ledger *Ledger
	own    bool // the descriptor is the view's
}

// OpenView looks at the ledger behind fd, which stays the caller's and must stay open until Close. An
// error says that it is none, or that this program can't read it.
func OpenView(fd int) (*View, error) { return openView(fd, true) }

func openView(fd int, others bool) (*View, error) {
	if err := memfile.Check(fd, fileSize); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l, err := newLedger(fd, unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	l.others = others
	v := &View{ledger: l, Store: newStore(l)}
	if err := l.header.check(); err != nil {
		_ = v.Close()
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := v.Store.scan(); err != nil {
		_ = v.Close()
		return nil, err
	}
	return v, nil
}

// scan finds out what has memory, and looks at nothing.
func (s *Store) scan() error {
	nothing := func(uint32) {}
	for i := range s.names.classes {
		if err := s.names.classes[i].scan(nothing); err != nil {
			return err
		}
	}
	for _, sec := range []*section{&s.nodes, &s.opens, &s.lists, &s.locks.owners.section, &s.locks.locks.section} {
		if err := sec.scan(nothing); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the view.
func (v *View) Close() error {
	err := unix.Munmap(v.ledger.memory)
	if v.own {
		_ = unix.Close(v.ledger.fd)
	}
	return err
}

// Info is what a ledger says of itself, and of the processes that write it.
type Info struct {
	Version, Oldest uint32 // the oldest version that can read it
	Generation      uint64 // of the process that writes it, from 1 on
	Serving         bool   // it has taken over what its predecessor left
	Ended           bool   // no successor is wanted
	Unplaced        uint64 // places of nodes that were lost for want of memory
	Memory          int64  // that the file takes, in bytes
}

// Info is what the ledger says of itself.
func (v *View) Info() Info {
	h := v.ledger.header
	i := Info{Version: h.version, Oldest: h.oldest, Generation: h.generation, Serving: v.ledger.IsServing(),
		Ended: v.ledger.Ended(), Unplaced: h.unplaced}
	var st unix.Stat_t
	if unix.Fstat(v.ledger.fd, &st) == nil {
		i.Memory = st.Blocks * 512
	}
	return i
}

// Request is a request under way.
type Request struct {
	Queue int
	Head  uint16 // of its chain
	Cell  fuse.Cell
}

// Requests yields the requests under way.
func (v *View) Requests(yield func(r *Request) bool) {
	var r Request
	more := true
	_ = v.ledger.cells().scan(func(first uint32) {
		for i := first; i < first+cellsPerBlock && more; i++ {
			c := (*fuse.Cell)(v.ledger.at(cellsAt + int64(i)*fuse.CellSize))
			if c.Phase() == fuse.PhaseFree {
				continue
			}
			r = Request{Queue: int(i / MaxQueueSize), Head: uint16(i % MaxQueueSize), Cell: *c}
			more = yield(&r)
		}
	})
}

// Ring is a ring in use.
type Ring struct {
	Queue int
	Start uint32 // tells this start of the ring from all others
	Next  uint16 // index of the available ring to read next
	Taken uint64 // requests that were taken
}

// Rings yields the rings in use.
func (v *View) Rings(yield func(r Ring) bool) {
	b := v.bytes(queuesAt, MaxQueues*queueSize)
	for i := range len(b) / int(queueSize) {
		q := (*queueRecord)(unsafe.Pointer(&b[i*int(queueSize)]))
		if q.start != 0 && !yield(Ring{Queue: i, Start: q.start, Next: uint16(q.taken), Taken: q.taken >> 16}) {
			return
		}
	}
}

// AreaSizes is how many bytes each area has that has something.
func (v *View) AreaSizes() map[AreaKind]uint32 {
	sizes := map[AreaKind]uint32{}
	for k := range numAreas {
		b := v.bytes(areasAt+int64(k)*areaStride, int64(unsafe.Sizeof(areaHeader{})))
		if len(b) == 0 {
			continue
		}
		h := (*areaHeader)(unsafe.Pointer(&b[0]))
		if size := min(h.size[h.seq&1], MaxArea); h.seq != 0 && size != 0 {
			sizes[k] = size
		}
	}
	return sizes
}

// bytes is a copy of a part of the file, in memory for 8-byte words; nil if it can't be read.
// Unlike a look at the mapping, it gives no memory to what has none.
func (v *View) bytes(at, size int64) []byte {
	words := make([]uint64, (size+7)/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:size]
	if n, err := unix.Pread(v.ledger.fd, b, at); err != nil || int64(n) != size {
		return nil
	}
	return b
}

var areaNames = [numAreas]string{AreaConn: "connection", AreaSession: "session", AreaFS: "filesystem", AreaEvents: "events", AreaChannel: "channel"}

// String names the area.
func (k AreaKind) String() string {
	if k >= 0 && k < numAreas && areaNames[k] != "" {
		return areaNames[k]
	}
	return fmt.Sprintf("area %d", int(k))
}

// IsLedger reports whether what begins with these bytes may be a ledger, or a copy of one.
func IsLedger(begin []byte) bool { return bytes.HasPrefix(begin, []byte(magic)) }

// maxCopy limits what ViewCopy takes into memory.
const maxCopy = 64 << 30

// ViewCopy looks at a copy of a ledger in an ordinary file, which it takes into memory: the file
// can change its size. f stays the caller's.
func ViewCopy(f *os.File) (*View, error) {
	fd, err := newFile()
	if err != nil {
		return nil, err
	}
	v := (*View)(nil)
	if err = copyPages(fd, int(f.Fd())); err != nil {
		err = fmt.Errorf("ledger: %w", err)
	} else {
		v, err = openView(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	v.own = true
	return v, nil
}

// copyPages copies pages that are not empty.
func copyPages(to, from int) error {
	const size = 64 * pageSize
	b, empty := make([]byte, size), make([]byte, pageSize)
	for at, copied := int64(0), 0; at < fileSize; {
		if data, err := unix.Seek(from, at, unix.SEEK_DATA); err == unix.ENXIO {
			return nil
		} else if err == nil {
			at = data / pageSize * pageSize
		}
		n, err := unix.Pread(from, b[:min(size, fileSize-at)], at)
		if err != nil || n == 0 {
			return err
		}
		for page := 0; page < n; page += pageSize {
			p := b[page:min(page+pageSize, n)]
			if bytes.Equal(p, empty[:len(p)]) {
				continue
			}
			if copied += len(p); copied > maxCopy {
				return fmt.Errorf("it has more than %d bytes", int64(maxCopy))
			}
			if _, err := unix.Pwrite(to, p, at+int64(page)); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return nil
}
