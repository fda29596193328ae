package bench

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// making creates and removes a name of its own in each slot.
type making struct {
	dir   uint64
	op    fp.Opcode // CREATE or MKDIR
	slots []makeState
}

type makeState struct {
	name     string
	step     int
	node, fh uint64
}

func setupCreate(s *session) (job, error) { return newMaking(s, fp.OpCreate, "create"), nil }
func setupMkdir(s *session) (job, error)  { return newMaking(s, fp.OpMkdir, "mkdir"), nil }

func newMaking(s *session, op fp.Opcode, prefix string) job {
	return simple{func(queue, depth int) operation {
		m := &making{dir: s.nodes["tmp"], op: op, slots: make([]makeState, depth)}
		for i := range m.slots {
			m.slots[i].name = fmt.Sprintf("%s-%s-%d-%d", prefix, s.name, queue, i)
		}
		return m
	}}
}

// The requests of a name, in their order.
const (
	stepMake = iota
	stepRelease
	stepRemove
	stepForget
)

func (m *making) next(s *frontend.Slot) bool {
	st := &m.slots[s.Index()]
	switch st.step {
	case stepMake:
		m.make(s, st.name)
	case stepRelease:
		release(s, st.node, st.fh, readWrite)
	case stepRemove:
		op := fp.OpUnlink
		if m.op == fp.OpMkdir {
			op = fp.OpRmdir
		}
		request(s, op, m.dir, nameArgs(s, 0, st.name), 0)
	case stepForget:
		forget(s, st.node, 1)
	}
	return true
}

func (m *making) make(s *frontend.Slot, name string) {
	if m.op == fp.OpMkdir {
		n := nameArgs(s, fp.Size[fp.MkdirIn](), name)
		request(s, m.op, m.dir, n, 0)
		*frontend.ArgsOf[fp.MkdirIn](s) = fp.MkdirIn{Mode: 0o755}
		return
	}
	n := nameArgs(s, fp.Size[fp.CreateIn](), name)
	request(s, m.op, m.dir, n, 0)
	*frontend.ArgsOf[fp.CreateIn](s) = fp.CreateIn{Flags: uint32(readWrite) | unix.O_CREAT | unix.O_EXCL, Mode: unix.S_IFREG | 0o644}
}

func (m *making) done(s *frontend.Slot) (n int, err error) {
	st := &m.slots[s.Index()]
	switch st.step {
	case stepMake:
		size := fp.Size[fp.CreateOut]()
		if m.op == fp.OpMkdir {
			size = fp.Size[fp.EntryOut]()
		}
		if st.node, err = entry(s, size); err != nil {
			return 0, err
		}
		st.step = stepRemove
		if m.op == fp.OpCreate {
			st.fh, st.step = frontend.ReplyOf[fp.CreateOut](s).Open.Fh, stepRelease
		}
	case stepRelease, stepRemove:
		st.step++
		return 0, replied(s, 0)
	case stepForget:
		st.step = stepMake
		return 1, nil
	}
	return 0, nil
}

// renameState is where a slot's file is, and where it goes.
type renameState struct{ from, to string }

func setupRename(s *session) (job, error) {
	// The names outlast a worker, because a stretch may end half-way.
	var all []*renameState
	for i := range s.opts.maxDepth() * s.opts.Queues {
		st := &renameState{fmt.Sprintf("rename-%s-%d-a", s.name, i), fmt.Sprintf("rename-%s-%d-b", s.name, i)}
		node, fh, err := s.create(st.from)
		if err == nil {
			err = s.client.Release(node, fh)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return simple{func(queue, depth int) operation {
		return &renamer{dir: s.nodes["tmp"], first: queue * s.opts.maxDepth(), all: all}
	}}, nil
}

// renamer renames a file of its own in each slot, back and forth.
type renamer struct {
	dir   uint64
	first int
	all   []*renameState
}

func (r *renamer) next(s *frontend.Slot) bool {
	st := r.all[r.first+s.Index()]
	n := nameArgs(s, fp.Size[fp.RenameIn](), st.from)
	n = nameArgs(s, n, st.to)
	request(s, fp.OpRename, r.dir, n, 0)
	*frontend.ArgsOf[fp.RenameIn](s) = fp.RenameIn{NewDir: r.dir}
	return true
}

func (r *renamer) done(s *frontend.Slot) (int, error) {
	st := r.all[r.first+s.Index()]
	err := replied(s, 0)
	if err == nil {
		st.from, st.to = st.to, st.from
	}
	return 1, err
}

// mixed chooses the next operation of each slot at random. As in a build or a checkout, most
// operations look at files and few change them.
type mixed struct {
	parts  []operation
	weight []int
	chosen []int
	idle   []bool // between two operations
	rand   noise
}

func setupMixed(s *session) (job, error) {
	var jobs []job
	var weights []int
	for _, part := range []struct {
		setup  func(*session) (job, error)
		weight int
	}{
		{setupLookup, 35}, {setupGetattr, 25}, {setupRead(4<<10, "big"), 20}, {setupOpen, 10}, {setupWrite(4 << 10), 7}, {setupCreate, 3},
	} {
		j, err := part.setup(s)
		if err != nil {
			return nil, err
		}
		jobs, weights = append(jobs, j), append(weights, part.weight)
	}
	return simple{func(queue, depth int) operation {
		m := &mixed{weight: weights, chosen: make([]int, depth), idle: make([]bool, depth), rand: noise{uint64(queue) + 1}}
		for i := range m.idle {
			m.idle[i] = true
		}
		for _, j := range jobs {
			m.parts = append(m.parts, j.worker(queue, depth))
		}
		return m
	}}, nil
}

func (m *mixed) next(s *frontend.Slot) bool {
	i := s.Index()
	if m.idle[i] {
		m.idle[i] = false
		n := m.rand.below(100)
		for k, w := range m.weight {
			if m.chosen[i] = k; n < w {
				break
			}
			n -= w
		}
	}
	return m.parts[m.chosen[i]].next(s)
}

func (m *mixed) done(s *frontend.Slot) (int, error) {
	i := s.Index()
	n, err := m.parts[m.chosen[i]].done(s)
	m.idle[i] = n > 0
	return n, err
}
