package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// reads is a frontend.Source that reads a file in blocks and checks each.
type reads struct {
	node, fh uint64
	block    int
	next     int
	end      int
	wrong    int
	at       map[int]int // block of each slot
}

func (r *reads) Next(s *frontend.Slot) bool {
	if r.next >= r.end {
		return false
	}
	s.SetShape(frontend.Shape{Args: fp.Size[fp.ReadIn](), Read: r.block})
	s.Header().Opcode, s.Header().NodeID = uint32(fp.OpRead), r.node
	*frontend.ArgsOf[fp.ReadIn](s) = fp.ReadIn{Fh: r.fh, Offset: uint64(r.next * r.block), Size: uint32(r.block)}
	r.at[s.Index()] = r.next
	r.next++
	return true
}

func (r *reads) Done(s *frontend.Slot) error {
	for _, b := range s.Data[:s.Written()-16] {
		if b != byte(r.at[s.Index()]) {
			r.wrong++
		}
	}
	return s.Err()
}

// TestPipe drives a queue with many requests under way, with every set of ring
// features. A Client uses the queue before and after.
func TestPipe(t *testing.T) {
	const blocks, block = 200, 8192
	for _, o := range []frontend.Options{
		{Indirect: true}, {}, {Indirect: true, NoEventIdx: true}, {NoEventIdx: true, NoIndirect: true},
		{Indirect: true, Chunk: 4096}, {Indirect: true, QueueSize: 16},
	} {
		for _, depth := range []int{1, 8} {
			t.Run(fmt.Sprintf("indirect=%t,noeventidx=%t,chunk=%d,size=%d,depth=%d", o.Indirect, o.NoEventIdx, o.Chunk, o.QueueSize, depth), func(t *testing.T) {
				o.Slots = 8
				s := open(t, defaults(), o)
				var data []byte
				for i := range blocks {
					for range block {
						data = append(data, byte(i))
					}
				}
				if err := os.WriteFile(filepath.Join(s.dir, "file"), data, 0o644); err != nil {
					t.Fatal(err)
				}
				e, err := s.Lookup(rootID, "file")
				if err != nil {
					t.Fatal(err)
				}
				fh, err := s.Open(e.NodeID, unix.O_RDONLY)
				if err != nil {
					t.Fatal(err)
				}
				p, err := s.Queues[1].NewPipe(depth)
				if err != nil {
					t.Fatal(err)
				}
				r := &reads{node: e.NodeID, fh: fh, block: block, end: blocks, at: map[int]int{}}
				for round := range 2 {
					r.next = 0
					if err := p.Run(r); err != nil {
						t.Fatalf("run %d: %v", round, err)
					}
				}
				if r.wrong > 0 {
					t.Errorf("%d bytes were wrong", r.wrong)
				}
				// No call at all: the driver may never get to sleep.
				if p.Kicks == 0 || p.Kicks > 2*blocks || p.Calls > 2*blocks+2 {
					t.Errorf("%d kicks and %d calls for %d requests", p.Kicks, p.Calls, 2*blocks)
				}
				p.Close()
				if _, err := s.Getattr(e.NodeID); err != nil {
					t.Errorf("the client after the pipe: %v", err)
				}
			})
		}
	}
}

// TestPipeAllocs: driving a queue allocates nothing per request. Otherwise the garbage
// collector would show in the latencies of the measured back-end.
func TestPipeAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	s := open(t, defaults(), frontend.Options{Indirect: true, Slots: 8})
	p, err := s.Queues[1].NewPipe(8)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	g := &getattrs{}
	run := func() {
		g.left = 2000
		if err := p.Run(g); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if n := testing.AllocsPerRun(5, run); n > 20 {
		t.Errorf("%.0f allocations in 2,000 requests (both sides)", n)
	}
}

// getattrs asks for the root's attributes.
type getattrs struct{ left int }

func (g *getattrs) Next(s *frontend.Slot) bool {
	if g.left == 0 {
		return false
	}
	g.left--
	s.SetShape(frontend.Shape{Args: fp.Size[fp.GetattrIn](), Reply: fp.Size[fp.AttrOut]()})
	s.Header().Opcode, s.Header().NodeID = uint32(fp.OpGetattr), rootID
	*frontend.ArgsOf[fp.GetattrIn](s) = fp.GetattrIn{}
	return true
}

func (g *getattrs) Done(s *frontend.Slot) error { return s.Err() }

// TestPipeErrors: a request that fails ends the run, and so does a back-end that ends.
func TestPipeErrors(t *testing.T) {
	s := open(t, defaults(), frontend.Options{Indirect: true})
	if _, err := s.Queues[1].NewPipe(1000); err == nil {
		t.Error("a pipe of 1,000 requests on a queue of 128 is possible")
	}
	p, err := s.Queues[1].NewPipe(1)
	if err != nil {
		t.Fatal(err)
	}
	r := &reads{node: 999, fh: 999, block: 16, end: 3, at: map[int]int{}}
	if err := p.Run(r); !errors.Is(err, unix.EBADF) || r.next != 1 {
		t.Errorf("reading with a forged handle, %d times: %v", r.next, err)
	}
	if err := p.Run(&getattrs{left: 5}); err != nil {
		t.Errorf("a run after one that has failed: %v", err)
	}
	p.Close()

	// A back-end that never answers: the ring is stopped, so no worker reads
	// it.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if p, err = s.Queues[1].NewPipe(1); err != nil {
		t.Fatal(err)
	}
	p.Timeout = 100 * time.Millisecond
	if err := p.Run(&getattrs{left: 1}); !errors.Is(err, frontend.ErrTimeout) {
		t.Errorf("without a back-end: %v, want %v", err, frontend.ErrTimeout)
	}
	p.Close()
	if _, err := s.Queues[1].NewPipe(1); err == nil {
		t.Error("a queue that has lost a request can be used again")
	}
}
