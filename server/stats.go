package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// OpStats counts the requests of one opcode.
type OpStats struct {
	Requests   uint64
	Errors     uint64 // answered with an errno
	Unanswered uint64 // of Errors, those whose reply had no room at all
	Bytes      uint64 // of file data; READ and WRITE only
}

// count adds the request that t has served. Each counter has one writer; the atomic
// operations are for those who read meanwhile.
func (t *thread) count(o *op, errno unix.Errno) {
	c := &t.stats[min(t.request.Header.Opcode, fp.NumOpcodes)]
	c.requests.Add(1)
	if errno != 0 {
		c.errors.Add(1)
		if !o.NoReply && t.room < uint64(outHeaderSize) {
			c.unanswered.Add(1)
		}
	} else if t.moved != 0 {
		c.bytes.Add(t.moved)
	}
}

func (s *Server) addThread(t *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.threads[t] = struct{}{}
}

// removeThread keeps what a thread has counted. It need not have been added.
func (s *Server) removeThread(t *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.threads, t)
	t.addTo(&s.past)
}

func (t *thread) addTo(sum *[fp.NumOpcodes + 1]OpStats) {
	for i := range sum {
		c := &t.stats[i]
		sum[i].Requests += c.requests.Load()
		sum[i].Errors += c.errors.Load()
		sum[i].Unanswered += c.unanswered.Load()
		sum[i].Bytes += c.bytes.Load()
	}
}

// Stats are the requests served so far, by opcode; fp.NumOpcodes stands for all
// unknown ones. Requests too short for a header count as opcode 0.
func (s *Server) Stats() [fp.NumOpcodes + 1]OpStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.past
	for t := range s.threads {
		t.addTo(&sum)
	}
	return sum
}

// Panics is how many methods have panicked, which cost a request each.
func (s *Server) Panics() uint64 { return s.panics.Load() }
