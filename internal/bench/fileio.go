package bench

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// opening opens and releases a small file in each slot.
type opening struct {
	nodes []uint64
	i     int
	slots []openState
}

type openState struct {
	node, fh uint64
	open     bool
}

func setupOpen(s *session) (job, error) {
	nodes, err := s.lookupAll("small", smallFiles)
	return simple{func(queue, depth int) operation {
		return &opening{nodes: nodes, i: queue * 7, slots: make([]openState, depth)}
	}}, err
}

func (o *opening) next(s *frontend.Slot) bool {
	st := &o.slots[s.Index()]
	if st.open {
		release(s, st.node, st.fh, readOnly)
		return true
	}
	o.i++
	st.node = o.nodes[o.i%len(o.nodes)]
	open(s, st.node, readOnly)
	return true
}

func (o *opening) done(s *frontend.Slot) (int, error) {
	st := &o.slots[s.Index()]
	if st.open {
		st.open = false
		return 1, replied(s, 0)
	}
	err := replied(s, fp.Size[fp.OpenOut]())
	st.fh, st.open = frontend.ReplyOf[fp.OpenOut](s).Fh, true
	return 0, err
}

// transfer reads or writes a file: in sequence, or at random if the blocks are small.
type transfer struct {
	node, fh uint64
	size     int
	blocks   int
	at, step int
	writes   bool
}

// newTransfer begins each queue at another place. It goes through the blocks in steps of a large
// odd number of blocks. So the order looks random, and each block comes once before any block
// comes twice: a block that is read from a disk is not in the page cache.
func newTransfer(node, fh uint64, fileSize int64, size, queue int, writes bool) *transfer {
	t := &transfer{node: node, fh: fh, size: size, blocks: int(fileSize) / size, step: 1, writes: writes}
	if size < 64<<10 {
		t.step = coprime(t.blocks)
	}
	t.at = queue * (t.blocks / 4)
	return t
}

// coprime is a number near 0.618 n that shares no factor with n.
func coprime(n int) int {
	for k := n * 618 / 1000; k > 1; k-- {
		a, b := n, k
		for b != 0 {
			a, b = b, a%b
		}
		if a == 1 {
			return k
		}
	}
	return 1
}

func (t *transfer) next(s *frontend.Slot) bool {
	t.at = (t.at + t.step) % t.blocks
	off := int64(t.at) * int64(t.size)
	if t.writes {
		write(s, t.node, t.fh, off, t.size)
	} else {
		read(s, t.node, t.fh, off, t.size)
	}
	return true
}

func (t *transfer) done(s *frontend.Slot) (int, error) {
	if !t.writes {
		return 1, replied(s, t.size)
	}
	err := replied(s, fp.Size[fp.WriteOut]())
	if n := frontend.ReplyOf[fp.WriteOut](s).Size; err == nil && int(n) != t.size {
		err = fmt.Errorf("WRITE of %d bytes has written %d", t.size, n)
	}
	return 1, err
}

// cold drops the file from the page cache before each stretch.
type cold struct{ simple }

func (cold) between(s *session) error { return s.files.dropCache() }

func setupRead(size int, name string) func(*session) (job, error) {
	return func(s *session) (job, error) {
		fh, err := s.open(name, readOnly)
		length := int64(bigSize)
		if name == "cold" {
			length = s.files.cold
		}
		j := simple{func(queue, _ int) operation {
			return newTransfer(s.nodes[name], fh, length, size, queue, false)
		}}
		if name == "cold" {
			return cold{j}, err
		}
		return j, err
	}
}

// setupWrite gives each queue a file of its own, because a guest's writers mostly have that.
func setupWrite(size int) func(*session) (job, error) {
	return func(s *session) (job, error) {
		names, fhs := make([]string, s.opts.Queues), make([]uint64, s.opts.Queues)
		for queue := range names {
			var err error
			names[queue] = outName(s.guest*s.opts.Queues + queue)
			if fhs[queue], err = s.open(names[queue], readWrite); err != nil {
				return nil, err
			}
		}
		return simple{func(queue, _ int) operation {
			return newTransfer(s.nodes[names[queue]], fhs[queue], s.files.outSize(), size, queue, true)
		}}, nil
	}
}

// syncing writes and syncs a file of its own in each slot.
type syncing struct {
	nodes, fhs []uint64
	written    []bool
}

func setupFsync(s *session) (job, error) {
	depth := s.opts.maxDepth()
	var nodes, fhs []uint64
	for i := range depth * s.opts.Queues {
		node, fh, err := s.create(fmt.Sprintf("sync-%s-%d", s.name, i))
		if err != nil {
			return nil, err
		}
		nodes, fhs = append(nodes, node), append(fhs, fh)
	}
	return simple{func(queue, _ int) operation {
		from, to := queue*depth, (queue+1)*depth
		return &syncing{nodes: nodes[from:to], fhs: fhs[from:to], written: make([]bool, depth)}
	}}, nil
}

func (y *syncing) next(s *frontend.Slot) bool {
	i := s.Index()
	if !y.written[i] {
		write(s, y.nodes[i], y.fhs[i], 0, 4<<10)
		return true
	}
	request(s, fp.OpFsync, y.nodes[i], 0, 0)
	*frontend.ArgsOf[fp.FsyncIn](s) = fp.FsyncIn{Fh: y.fhs[i]}
	return true
}

func (y *syncing) done(s *frontend.Slot) (int, error) {
	i := s.Index()
	y.written[i] = !y.written[i]
	if y.written[i] {
		return 0, replied(s, fp.Size[fp.WriteOut]())
	}
	return 1, replied(s, 0)
}
