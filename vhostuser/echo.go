package vhostuser

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// echoLimits are how long a mapping is waited for to come back as memory: from a
// front-end that has not done that before, and from one that does.
type echoLimits struct{ first, next time.Duration }

var defaultEchoLimits = echoLimits{first: 250 * time.Millisecond, next: 2 * time.Second}

// echoes are mappings that were acknowledged and may not be there yet. QEMU 11.1 sends
// the answer to SHMEM_MAP first, then changes the guest's memory, and at the end of that
// tells us of the new region (ADD_MEM_REG, or SET_MEM_TABLE): only then does the guest
// see the file. Front-ends that map before they answer need not tell of it at all, so
// the first mapping finds out which kind this is.
type echoes struct {
	mu      sync.Mutex // guards the following; a leaf
	limits  echoLimits
	known   bool // whether there are echoes was found out
	expect  bool // there are
	pending []*echo
}

// echo is one mapping, as it is to come back.
type echo struct {
	file         fileID
	offset, size uint64
	came         chan struct{}
}

// fileID tells files apart.
type fileID struct{ dev, ino uint64 }

func fileIDOf(fd int) (id fileID) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		id = fileID{uint64(st.Dev), st.Ino}
	}
	return id
}

// await announces a mapping; the caller then waits, or drops it.
func (s *echoes) await(file fileID, offset, size uint64) *echo {
	e := &echo{file: file, offset: offset, size: size, came: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, e)
	return e
}

func (s *echoes) drop(e *echo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = slices.DeleteFunc(s.pending, func(p *echo) bool { return p == e })
}

// wait returns when the mapping has come back, or will not; done ends it early.
func (s *echoes) wait(e *echo, done <-chan struct{}) {
	defer s.drop(e)
	s.mu.Lock()
	limit := s.limits.first
	switch {
	case s.known && !s.expect:
		limit = 0
	case s.known:
		limit = s.limits.next
	}
	s.mu.Unlock()
	if limit == 0 {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.came:
	case <-done:
	case <-timer.C:
		s.mu.Lock()
		s.known = true // an echo of another mapping may have come meanwhile
		s.mu.Unlock()
	}
}

// match ends the wait for a mapping, if the front-end has added this region for it.
func (s *echoes) match(file fileID, offset, size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.pending, func(e *echo) bool {
		return e.file == file && e.offset == offset && e.size == size
	})
	if i >= 0 {
		s.known, s.expect = true, true
		close(s.pending[i].came)
		s.pending = slices.Delete(s.pending, i, i+1)
	}
}

// noteRegion returns what says that the front-end has added r. It is to be called when r
// is in use; or was refused, as the guest has it all the same.
func (c *Conn) noteRegion(r *MemoryRegion, fd int) func() {
	if c.echoes == nil {
		return func() {}
	}
	file := fileIDOf(fd)
	return func() { c.echoes.match(file, r.MmapOffset, r.Size) }
}
