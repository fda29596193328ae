package ledger

import (
	"fmt"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/paged"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// section is an array of records of one size in the file. A record has memory after need, which
// is cheap if it is there already. The record keeps it until its chunk is given back. Memory
// comes in blocks of whole pages and whole records.
//
// One thread at a time calls need and unuse.
type section struct {
	ledger *Ledger
	at     int64 // in the file: a multiple of pageSize
	size   int64 // of a record
	bits   uint8 // a block has 1<<bits records
	count  uint32
	chunks paged.Array[chunk]
	spare  *chunk // an empty one that has kept its memory

	// The chunk of the last need: mostly it is that of the next one.
	last      *chunk
	lastIndex uint32
}

// chunk is 64 blocks.
type chunk struct {
	blocks uint64 // which have memory
	used   uint32 // records in use, if they are counted
}

const (
	chunkBits = 6

	// How many bytes get memory at a time: many shares have few nodes.
	firstStep = 16 << 10
	laterStep = 256 << 10
)

func (s *section) blockSize() int64 { return s.size << s.bits }

// blockOf is the block of record i: its chunk, and its number there.
func (s *section) blockOf(i uint32) (index, block uint32) {
	return i >> s.bits >> chunkBits, i >> s.bits % (1 << chunkBits)
}

// record is where record i is. The caller knows that it has memory.
func (s *section) record(i uint32) unsafe.Pointer { return s.ledger.at(s.at + int64(i)*s.size) }

// need makes sure that record i, which is less than count, has memory. Otherwise a write to
// it when memory is short would end the process.
func (s *section) need(i uint32) (*chunk, error) {
	index, block := s.blockOf(i)
	c := s.last
	if c == nil || index != s.lastIndex {
		c = s.chunks.Make(index)
		s.last, s.lastIndex = c, index
	}
	if c.blocks>>block&1 != 0 {
		return c, nil
	}
	return c, s.grow(c, index, block)
}

// grow gives a block of a chunk memory, and some of its neighbours.
func (s *section) grow(c *chunk, index, block uint32) error {
	most := int64(laterStep)
	if index == 0 {
		most = firstStep
	}
	step := uint32(1)
	for 2*step <= 1<<chunkBits && int64(2*step)*s.blockSize() <= most {
		step *= 2
	}
	first := block / step * step
	at := s.at + (int64(index)<<chunkBits+int64(first))*s.blockSize()
	if err := s.ledger.need(at, int64(step)*s.blockSize()); err != nil {
		return err
	}
	c.blocks |= (1<<step - 1) << first
	return nil
}

// has reports whether record i has memory.
func (s *section) has(i uint32) bool {
	index, block := s.blockOf(i)
	c := s.chunks.At(index)
	return i < s.count && c != nil && c.blocks>>block&1 != 0
}

// use counts a record that is in use from now on.
func (s *section) use(c *chunk) {
	if c == s.spare {
		s.spare = nil
	}
	c.used++
}

// unuse counts a record that is in use no more. Memory that nothing uses is given back, but for
// one chunk: the next record would take it again.
func (s *section) unuse(i uint32) {
	index, _ := s.blockOf(i)
	c := s.chunks.At(index)
	if c.used--; c.used > 0 {
		return
	}
	if s.spare == nil {
		s.spare = c
		return
	}
	size := s.blockSize() << chunkBits
	const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if unix.Fallocate(s.ledger.fd, how, s.at+int64(index)*size, size) == nil {
		c.blocks = 0
	}
}

// scan yields the first records of the blocks that have memory in the file, and notes these.
func (s *section) scan(yield func(first uint32)) error {
	size, end := s.blockSize(), s.at+int64(s.count)*s.size
	for at := s.at; at < end; {
		from, err := unix.Seek(s.ledger.fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && from >= end {
			return nil
		}
		to := int64(0)
		if err == nil {
			to, err = unix.Seek(s.ledger.fd, from, unix.SEEK_HOLE)
		}
		if err != nil {
			return fmt.Errorf("ledger: where the file has memory: %w", err)
		}
		first, last := (from-s.at)/size, (min(to, end)-s.at-1)/size
		for block := max(first, (at-s.at)/size); block <= last; block++ {
			start := s.at + block*size
			if start < from || start+size > to { // a part of it
				if s.ledger.others {
					continue
				}
				if err := s.ledger.need(start, size); err != nil {
					return err
				}
			}
			s.chunks.Make(uint32(block >> chunkBits)).blocks |= 1 << (block % (1 << chunkBits))
			yield(uint32(block << s.bits))
		}
		at = s.at + (last+1)*size
	}
	return nil
}

// records yields the numbers of the records that have memory, until yield returns false.
func (s *section) records(yield func(i uint32) bool) {
	for index := uint32(0); int64(index) < int64(s.count)>>s.bits>>chunkBits; index++ {
		c := s.chunks.At(index)
		if c == nil {
			index |= paged.PageSize - 1 // nor is there any of its neighbours
			continue
		}
		for blocks := c.blocks; blocks != 0; blocks &= blocks - 1 {
			first := (index<<chunkBits + uint32(bits.TrailingZeros64(blocks))) << s.bits
			for i := range uint32(1) << s.bits {
				if !yield(first + i) {
					return
				}
			}
		}
	}
}

// store writes a word that a successor reads. It is not inlined, so that the compiler keeps
// stores before it and after it apart.
//
//go:noinline
func store(p *uint64, v uint64) {
	storing.Note()
	*p = v
	storing.Note()
}

// put is store for functions that store nothing else at this place, and that many requests come through.
func put(p *uint64, v uint64) {
	if storing.Watched() {
		store(p, v)
		return
	}
	*p = v
}
