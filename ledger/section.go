package ledger

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/paged"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// section is an array of records of one size in the file. A record has memory after need, which
// is cheap when it is there, and goes on to have it until its chunk is given back.
//
// One thread at a time calls need and giveBack.
type section struct {
	ledger *Ledger
	at     int64 // a multiple of chunkSize
	size   int64 // of a record: a power of two, at most pageSize
	count  uint32
	chunks paged.Array[chunk]
	spare  *chunk // an empty one that has kept its memory
}

// chunk is a part of a section, of chunkSize bytes.
type chunk struct {
	pages uint64 // by page: it has memory
	used  uint32 // records in use, where somebody counts them
}

const (
	chunkSize = 64 * pageSize // a bit for each page

	// How much memory a section gets at a time: few users have much.
	firstStep = 4
	laterStep = 16
)

// record is where record i is. The caller knows that it has memory, or only looks at it.
func (s *section) record(i uint32) unsafe.Pointer { return s.ledger.at(s.at + int64(i)*s.size) }

func (s *section) chunkOf(i uint32) (index, page uint32) {
	at := int64(i) * s.size
	return uint32(at / chunkSize), uint32(at % chunkSize / pageSize)
}

// need has record i, which is less than count, keep its memory: without that, writing to it
// when there is no memory would end the process.
func (s *section) need(i uint32) (*chunk, error) {
	index, page := s.chunkOf(i)
	c := s.chunks.Make(index)
	if c.pages>>page&1 != 0 {
		return c, nil
	}
	step := uint32(laterStep)
	if index == 0 {
		step = firstStep
	}
	return c, s.grow(c, index, page/step*step, step)
}

// grow gives pages of a chunk memory.
func (s *section) grow(c *chunk, index, page, pages uint32) error {
	if err := s.ledger.need(s.at+int64(index)*chunkSize+int64(page)*pageSize, int64(pages)*pageSize); err != nil {
		return err
	}
	c.pages |= (1<<pages - 1) << page
	return nil
}

// has reports whether record i has memory.
func (s *section) has(i uint32) bool {
	index, page := s.chunkOf(i)
	c := s.chunks.At(index)
	return i < s.count && c != nil && c.pages>>page&1 != 0
}

// use counts a record that is in use from now on.
func (s *section) use(c *chunk) {
	if c == s.spare {
		s.spare = nil
	}
	c.used++
}

// unuse counts a record of chunk index that is in use no more. Memory that nothing uses is given
// back, but for one chunk: the next record would take it again.
func (s *section) unuse(c *chunk, index uint32) {
	if c.used--; c.used > 0 {
		return
	}
	if s.spare == nil {
		s.spare = c
		return
	}
	const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if unix.Fallocate(s.ledger.fd, how, s.at+int64(index)*chunkSize, chunkSize) == nil {
		c.pages = 0
	}
}

// pages yields the pages that have memory: their offsets in the section. It finds out what the
// file has, and notes it.
func (s *section) pages(yield func(at int64) bool) error {
	for at, end := s.at, s.at+int64(s.count)*s.size; at < end; {
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
		for at = from / pageSize * pageSize; at < min(to, end); at += pageSize {
			index, page := uint32((at-s.at)/chunkSize), uint32((at-s.at)%chunkSize/pageSize)
			s.chunks.Make(index).pages |= 1 << page
			if !yield(at - s.at) {
				return nil
			}
		}
	}
	return nil
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
