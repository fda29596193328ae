package stream

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/memfile"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// Recovery is where a Server leaves what its successor needs if the process dies. The guest then
// only loses its connections, and continues with the successor: a request is done once all the same.
type Recovery struct {
	// Ledger has the cells of requests, as for rings, and who the guest is. The Handler must have the
	// same one.
	Ledger *ledger.Ledger
	// Memory is a file of NewMemory, which all processes have in turn. The Server takes it.
	Memory int
	// Fail has Resume answer EIO to all requests that were under way. Killed says that the process
	// before was killed from outside, so that none of its requests is suspected for a while.
	Fail, Killed bool
	// Ended is called when a session has ended for good, and Replied once, when the first request was
	// answered. nil is nothing.
	Ended, Replied func()
}

// Layout of the memory: a record for each channel, then a slot for each cell of each channel. A slot has
// room for a reply, and behind it for a request that waits.
const (
	cellsOfChannel = 1024 // more than maxUnderWay
	recordSize     = 16 << 10
	pageSize       = 4 << 10

	// A slot that had long data gives the memory back, unless it is one of those that
	// are used first.
	keepLong  = windowMessages
	longBytes = 16 << 10
)

// channelRecord is what is recorded of a channel beside its cells. The cells are the truth: what one of them says
// counts even if it was not added up here.
type channelRecord struct {
	first    uint64 // number of the first reply that the guest may not have
	received uint64 // messages of the guest's that were dealt with
	cells    [cellsOfChannel]cellRecord
}

// cellRecord is what is recorded of a request beside its cell.
type cellRecord struct {
	session uint32 // which session it belongs to
	cost    uint32
	waits   uint32 // length of the request, which is in the slot; 0: the guest sends it again
}

var _ [recordSize - unsafe.Sizeof(channelRecord{})]byte // it fits

// NewMemory makes the file of Recovery.Memory. It takes memory only for what is under way.
func NewMemory() (fd int, err error) {
	if fd, err = memfile.Create("govirtiofs stream", memorySize(maxMaxWrite)); err != nil {
		return -1, fmt.Errorf("stream: %w", err)
	}
	return fd, nil
}

// slotPart is the size of one half of a slot.
func slotPart(maxWrite uint32) int64 {
	return int64(messageSize(maxWrite)+pageSize-1) / pageSize * pageSize
}

func memorySize(maxWrite uint32) int64 {
	return maxChannels * (recordSize + cellsOfChannel*2*slotPart(maxWrite))
}

// journal is the part of a Server for its successor. It outlives sessions.
type journal struct {
	*Recovery
	area     *ledger.Area
	memory   []byte
	part     int
	channels [maxChannels]*channelJournal
	session  uint32 // number of the present one

	noteMu sync.Mutex // one note at a time
	once   sync.Once  // for Replied
}

// channelJournal is that of a channel. A nil one records nothing.
type channelJournal struct {
	journal *journal
	record  *channelRecord
	queue   *ledger.Queue
	slots   [cellsOfChannel]slot

	mu   sync.Mutex // guards the following; a leaf
	free []*slot    // the one that is used next is the last
}

// slot is the place of a request and its reply in the memory. nil is none.
type slot struct {
	journal *channelJournal
	index   int
	cell    *fuse.Cell
	record  *cellRecord
	have    [2]int // how much of the halves has memory
}

func newJournal(r *Recovery, maxWrite uint32) (*journal, error) {
	j := &journal{Recovery: r, part: int(slotPart(maxWrite))}
	var st unix.Stat_t
	size := memorySize(maxWrite)
	if err := unix.Fstat(r.Memory, &st); err != nil {
		return nil, fmt.Errorf("memory for recovery: %w", err)
	}
	if seals, err := unix.FcntlInt(uintptr(r.Memory), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_SHRINK == 0 || st.Size < size {
		return nil, errors.New("memory for recovery: it is not of NewMemory")
	}
	var err error
	if j.area, err = r.Ledger.Area(ledger.AreaConn); err != nil {
		return nil, err
	}
	if j.memory, err = unix.Mmap(r.Memory, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE); err != nil {
		return nil, fmt.Errorf("memory for recovery: mmap: %w", err)
	}
	for i := range j.channels {
		c := &channelJournal{journal: j, record: (*channelRecord)(unsafe.Pointer(&j.memory[i*recordSize]))}
		if err := j.need(i*recordSize, recordSize); err != nil {
			return nil, err
		}
		if c.queue, err = r.Ledger.Queue(i, cellsOfChannel); err != nil {
			return nil, err
		}
		for k := range c.slots {
			c.slots[k] = slot{journal: c, index: i*cellsOfChannel + k, cell: c.queue.Cell(uint16(k)), record: &c.record.cells[k]}
		}
		j.channels[i] = c
	}
	return j, nil
}

// need gives a part of the memory its pages: a store to one that there is no room for would end the process.
func (j *journal) need(at, size int) error {
	if err := memfile.Populate(j.memory, j.Memory, int64(at), int64(size)); err != nil {
		return fmt.Errorf("no memory for recovery: %w", err)
	}
	return nil
}

// at is where a half of the slot is.
func (s *slot) at(half int) int {
	j := s.journal.journal
	return maxChannels*recordSize + (2*s.index+half)*j.part
}

// buffer is n bytes of a half: 0 for the reply, 1 for the request.
func (s *slot) buffer(half, n int) ([]byte, error) {
	if s.have[half] < n {
		size := (n + pageSize - 1) / pageSize * pageSize
		if err := s.journal.journal.need(s.at(half), size); err != nil {
			return nil, err
		}
		s.have[half] = size
	}
	at := s.at(half)
	return s.journal.journal.memory[at : at+n : at+n], nil
}

// take notes that the message of this number is being served, which costs k, for a session.
func (c *channelJournal) take(h *fp.InHeader, number uint64, k int, session uint32) (*slot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.free)
	if n == 0 {
		return nil, errors.New("too many requests are under way")
	}
	s := c.free[n-1]
	c.free = c.free[:n-1]
	*s.record = cellRecord{session: session, cost: uint32(k)}
	s.cell.Take(h, number+1, 0, 0)
	return s, nil
}

// number is that of the guest's message.
func (s *slot) number() uint64 { return s.cell.Order() - 1 }

// wait keeps the request: the guest is told that it has arrived, and sends it no more.
func (s *slot) wait(b []byte) error {
	kept, err := s.buffer(1, len(b))
	if err != nil {
		return err
	}
	copy(kept, b)
	atomic.StoreUint32(&s.record.waits, uint32(len(b)))
	return nil
}

// done notes that the reply of n bytes is in the slot, and which number it has.
func (s *slot) done(n int, number uint64) {
	if s != nil {
		s.cell.Done(uint32(n), uint16(number))
	}
}

// release gives the slot back: the guest has the reply.
func (s *slot) release() {
	if s == nil {
		return
	}
	for half, n := range s.have {
		if n > longBytes && s.index%cellsOfChannel >= keepLong {
			j := s.journal.journal
			const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if unix.Fallocate(j.Memory, punch, int64(s.at(half)), int64(n)) == nil {
				s.have[half] = 0
			}
		}
	}
	s.cell.Free()
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	s.journal.free = append(s.journal.free, s)
}

// setFirst notes that the guest has all replies before this number.
func (c *channelJournal) setFirst(n uint64) {
	if c != nil {
		atomic.StoreUint64(&c.record.first, n)
	}
}

// setReceived notes how many messages were dealt with.
func (c *channelJournal) setReceived(n uint64) {
	if c != nil {
		atomic.StoreUint64(&c.record.received, n)
	}
}

// replied is told that a request was answered.
func (j *journal) replied() {
	if j != nil && j.Replied != nil {
		j.once.Do(j.Replied)
	}
}
