package ledger

import (
	"math/bits"
	"slices"
	"sync"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// nameRef says where a name and a file handle are: the class of their record from 1 on, and its
// number in that. 0 is nowhere.
type nameRef uint32

const (
	nameIndexBits = 28
	nameHeader    = 2 // lengths of the name, which may be 0, and of the file handle

	// nameInside is a name in the node's own record, of up to insideSize bytes with its header.
	// Most are; not if the one before it is there, because that counts until the other one does.
	nameInside = nameRef(0xf << nameIndexBits)
	insideSize = 32
)

// Records of names have 32 to 512 bytes. There are fewer long ones than nodes: they are rare.
var nameClasses = [numNameClasses]nameClass{
	{size: 32, bits: 7, count: 1 << 28},
	{size: 64, bits: 6, count: 1 << 28},
	{size: 128, bits: 5, count: 1 << 26},
	{size: 256, bits: 4, count: 1 << 25},
	{size: 512, bits: 3, count: 1 << 24},
}

type nameClass struct {
	size  int64 // of a record, in bytes
	bits  uint8 // a page has 1<<bits records
	count uint32
}

const numNameClasses = 5

// writeName writes a name without its NUL, and a file handle, at most 255 bytes each.
func writeName(b []byte, name, handle []byte) {
	b[0], b[1] = uint8(len(name)), uint8(len(handle))
	copy(b[nameHeader:], name)
	copy(b[nameHeader+len(name):], handle)
}

// readName copies a name with a NUL behind it, and a file handle, to b, which has room for
// maxNameRecord bytes.
func readName(src, b []byte) (name fp.Name, handle []byte) {
	nameLen, handleLen := int(src[0]), int(src[1]) // once: a process may be writing
	nameLen = min(nameLen, len(src)-nameHeader)
	handleLen = min(handleLen, len(src)-nameHeader-nameLen)
	copy(b, src[nameHeader:nameHeader+nameLen])
	b[nameLen] = 0
	if handleLen > 0 {
		handle = b[nameLen+1 : nameLen+1+handleLen]
		copy(handle, src[nameHeader+nameLen:])
	}
	if nameLen > 0 {
		name = b[:nameLen+1]
	}
	return name, handle
}

const maxNameRecord = 512 + 1

func (r nameRef) class() int    { return int(r>>nameIndexBits) - 1 }
func (r nameRef) index() uint32 { return uint32(r) & (1<<nameIndexBits - 1) }

// names is the names and file handles of nodes. Which records are free is not in the ledger:
// those that no node refers to are.
type names struct {
	classes [numNameClasses]nameSection
}

// nameSection is the names of one class.
type nameSection struct {
	section
	mu       sync.Mutex // guards all; a leaf
	maps     []*nameMap // by chunk, nil if nothing was ever in use there
	open     []uint32   // chunks that have a free record, each once; the last is looked at first
	perChunk uint32
}

// nameMap says which records of a chunk are in use.
type nameMap struct {
	used []uint64
	hint int  // no word before this one has a free record
	open bool // in the list
}

func (n *names) init(l *Ledger) {
	at := namesAt
	for i := range n.classes {
		c := nameClasses[i]
		s := &n.classes[i]
		s.ledger, s.at, s.size, s.bits, s.count = l, at, c.size, c.bits, c.count
		s.perChunk = 1 << c.bits << chunkBits
		at += c.size * int64(c.count)
	}
}

// add writes a name and a file handle to a record that was free; 0 when there is no room.
func (n *names) add(name, handle []byte) nameRef {
	size := int64(nameHeader + len(name) + len(handle))
	for class := range n.classes {
		s := &n.classes[class]
		if s.size < size {
			continue
		}
		if i, ok := s.take(); ok {
			r := nameRef(class+1)<<nameIndexBits | nameRef(i)
			writeName(n.record(r), name, handle)
			return r
		}
	}
	return 0
}

// drop frees a record. It is this process's own reference, or one that load has checked.
func (n *names) drop(r nameRef) {
	if r != 0 && r != nameInside {
		n.classes[r.class()].free(r.index())
	}
}

// record is where a name is that valid knows of.
func (n *names) record(r nameRef) []byte {
	s := &n.classes[r.class()]
	return unsafe.Slice((*byte)(s.section.record(r.index())), s.size)
}

// valid reports whether a reference is to a record that has memory.
func (n *names) valid(r nameRef) bool {
	c := r.class()
	if r == 0 || c < 0 || c >= numNameClasses {
		return false
	}
	s := &n.classes[c]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has(r.index())
}

// claim marks a record that a node of another process refers to; false if the reference makes no
// sense, or if another node has it.
func (n *names) claim(r nameRef) bool {
	if !n.valid(r) {
		return false
	}
	s := &n.classes[r.class()]
	m := s.mapOf(r.index() / s.perChunk)
	word, bit := r.index()%s.perChunk/64, uint64(1)<<(r.index()%64)
	if m.used[word]&bit != 0 {
		return false
	}
	m.used[word] |= bit
	s.chunks.At(r.index()/s.perChunk).used++
	return true
}

// mapOf is the map of a chunk, which is made if there is none.
func (s *nameSection) mapOf(chunk uint32) *nameMap {
	if int(chunk) >= len(s.maps) {
		s.maps = append(s.maps, make([]*nameMap, int(chunk)+1-len(s.maps))...)
	}
	if s.maps[chunk] == nil {
		s.maps[chunk] = &nameMap{used: make([]uint64, s.perChunk/64)}
	}
	return s.maps[chunk]
}

// settle fills the list of chunks with free records, after all claims.
func (s *nameSection) settle() {
	for i := len(s.maps) - 1; i >= 0; i-- {
		if m := s.maps[i]; m == nil || slices.ContainsFunc(m.used, func(w uint64) bool { return ^w != 0 }) {
			s.mapOf(uint32(i)).open = true
			s.open = append(s.open, uint32(i))
		}
	}
}

// take finds a free record and gives it memory.
func (s *nameSection) take() (i uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if len(s.open) == 0 && !s.extend() {
			return 0, false
		}
		index := s.open[len(s.open)-1]
		m := s.maps[index]
		for ; m.hint < len(m.used); m.hint++ {
			free := ^m.used[m.hint]
			if free == 0 {
				continue
			}
			i = index*s.perChunk + uint32(m.hint*64+bits.TrailingZeros64(free))
			c, err := s.need(i)
			if err != nil {
				return 0, false
			}
			m.used[m.hint] |= free & -free
			s.use(c)
			return i, true
		}
		m.open = false
		s.open = s.open[:len(s.open)-1]
	}
}

// extend begins a chunk that was never in use.
func (s *nameSection) extend() bool {
	if chunk := uint32(len(s.maps)); chunk < s.count/s.perChunk {
		s.mapOf(chunk).open = true
		s.open = append(s.open, chunk)
		return true
	}
	return false
}

func (s *nameSection) free(i uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index := i / s.perChunk
	m := s.maps[index]
	word := int(i % s.perChunk / 64)
	m.used[word] &^= 1 << (i % 64)
	m.hint = min(m.hint, word)
	if !m.open {
		m.open = true
		s.open = append(s.open, index)
	}
	s.unuse(i)
}
