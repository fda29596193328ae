package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// OpStats counts the requests of one opcode.
type OpStats struct {
	Requests uint64
	Errors   uint64 // answered with an errno
}

// count adds the request that t has served.
func (t *Thread) count(errno unix.Errno) {
	c := &t.stats[min(t.request.Header.Opcode, fp.NumOpcodes)]
	c.requests.Add(1)
	if errno != 0 {
		c.errors.Add(1)
	}
}

func (s *Server) addThread(t *Thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.threads[t] = struct{}{}
}

func (s *Server) removeThread(t *Thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.threads, t)
	t.addTo(&s.past)
}

func (t *Thread) addTo(sum *[fp.NumOpcodes + 1]OpStats) {
	for i := range sum {
		sum[i].Requests += t.stats[i].requests.Load()
		sum[i].Errors += t.stats[i].errors.Load()
	}
}

// Stats are the requests served so far, by opcode; fp.NumOpcodes stands for all
// unknown ones.
func (s *Server) Stats() [fp.NumOpcodes + 1]OpStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.past
	for t := range s.threads {
		t.addTo(&sum)
	}
	return sum
}
