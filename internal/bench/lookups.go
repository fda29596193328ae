package bench

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// simple is a job without anything to do between stretches.
type simple struct {
	make func(queue, depth int) operation
}

func (j simple) worker(queue, depth int) operation { return j.make(queue, depth) }
func (j simple) between(*session) error            { return nil }

// steps is an operation of one request that never ends by itself.
type steps struct {
	build func(*frontend.Slot)
	check func(*frontend.Slot) (int, error)
}

func (o *steps) next(s *frontend.Slot) bool             { o.build(s); return true }
func (o *steps) done(s *frontend.Slot) (n int, _ error) { return o.check(s) }

func setupGetattr(s *session) (job, error) {
	nodes, err := s.lookupAll("small", smallFiles)
	return simple{func(queue, _ int) operation {
		i := queue * 7
		return &steps{
			build: func(s *frontend.Slot) {
				i++
				getattr(s, nodes[i%len(nodes)])
			},
			check: func(s *frontend.Slot) (int, error) { return 1, replied(s, fp.Size[fp.AttrOut]()) },
		}
	}}, err
}

// names are the prepared files' names, made before measuring.
func names(n int) (list []string) {
	for i := range n {
		list = append(list, fileName(i))
	}
	return list
}

func setupLookup(s *session) (job, error) {
	_, err := s.lookupAll("small", smallFiles)
	list, dir := names(smallFiles), s.nodes["small"]
	return simple{func(queue, _ int) operation {
		i := queue * 7
		return &steps{
			build: func(s *frontend.Slot) {
				i++
				lookup(s, dir, list[i%len(list)])
			},
			check: func(s *frontend.Slot) (int, error) { return 1, replied(s, fp.Size[fp.EntryOut]()) },
		}
	}}, err
}

func setupLookupMissing(s *session) (job, error) {
	dir := s.nodes["small"]
	return simple{func(int, int) operation {
		return &steps{
			build: func(s *frontend.Slot) { lookup(s, dir, "no-such-file") },
			check: func(s *frontend.Slot) (int, error) {
				err := s.Err()
				switch {
				case errors.Is(err, unix.ENOENT):
					return 1, nil
				case err == nil: // a negative entry that may be cached: node 0
					return 1, nil
				}
				return 0, err
			},
		}
	}}, nil
}

// lookupNew looks up each name of "many" once in a stretch; each queue has its part
// of the names.
type lookupNew struct {
	list    []string
	dir     uint64
	queues  int
	workers []*lookupNewWorker
}

type lookupNewWorker struct {
	job   *lookupNew
	i     int
	nodes []uint64 // to be forgotten
}

func setupLookupNew(s *session) (job, error) {
	return &lookupNew{list: names(s.files.many), dir: s.nodes["many"], queues: s.opts.Queues}, nil
}

func (j *lookupNew) worker(queue, _ int) operation {
	w := &lookupNewWorker{job: j, i: queue, nodes: make([]uint64, 0, len(j.list)/j.queues+1)}
	if queue == 0 {
		j.workers = j.workers[:0]
	}
	j.workers = append(j.workers, w)
	return w
}

func (w *lookupNewWorker) next(s *frontend.Slot) bool {
	if w.i >= len(w.job.list) {
		return false
	}
	lookup(s, w.job.dir, w.job.list[w.i])
	w.i += w.job.queues
	return true
}

func (w *lookupNewWorker) done(s *frontend.Slot) (int, error) {
	node, err := entry(s, fp.Size[fp.EntryOut]())
	w.nodes = append(w.nodes, node)
	return 1, err
}

// between forgets what the last stretch has looked up, over the high-priority queue as
// Linux does.
func (j *lookupNew) between(s *session) error {
	var all []uint64
	for queue, w := range j.workers {
		all = append(all, w.nodes...)
		w.i, w.nodes = queue, w.nodes[:0]
	}
	return forgetAll(s, all)
}

// forgetAll drops one reference of each node.
func forgetAll(s *session, nodes []uint64) error {
	q := s.client.Queues[0]
	p, err := q.NewPipe(min(8, len(q.Slots)))
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Run(&forgetter{nodes})
}

type forgetter struct{ nodes []uint64 }

func (f *forgetter) Next(s *frontend.Slot) bool {
	if len(f.nodes) == 0 {
		return false
	}
	forget(s, f.nodes[0], 1)
	f.nodes = f.nodes[1:]
	return true
}

func (f *forgetter) Done(*frontend.Slot) error { return nil }

// listing reads a directory again and again. Each slot has an open directory of its own.
type listing struct {
	node    uint64
	fhs     []uint64
	offsets []uint64
	size    int
}

func setupReaddirplus(s *session) (job, error) {
	depth, size := s.opts.maxDepth(), s.opts.ListSize
	var fhs []uint64
	for range depth * s.opts.Queues {
		fh, err := s.client.Opendir(s.nodes["list"])
		if err != nil {
			return nil, err
		}
		fhs = append(fhs, fh)
	}
	return simple{func(queue, _ int) operation {
		return &listing{node: s.nodes["list"], fhs: fhs[queue*depth : (queue+1)*depth],
			offsets: make([]uint64, depth), size: size}
	}}, nil
}

func (l *listing) next(s *frontend.Slot) bool {
	i := s.Index()
	request(s, fp.OpReaddirplus, l.node, 0, l.size)
	*frontend.ArgsOf[fp.ReadIn](s) = fp.ReadIn{Fh: l.fhs[i], Offset: l.offsets[i], Size: uint32(l.size)}
	return true
}

// done counts the entries, and begins again at the end.
func (l *listing) done(s *frontend.Slot) (n int, err error) {
	if err := s.Err(); err != nil {
		return 0, err
	}
	b := s.Data[:s.Written()-fp.Size[fp.OutHeader]()]
	off := uint64(0)
	for len(b) > 0 {
		d, _, ok := fp.View[fp.Direntplus](b)
		if !ok {
			return n, errors.New("READDIRPLUS: an entry is cut off")
		}
		size := fp.DirentAlign(fp.Size[fp.Direntplus]() + int(d.Dirent.NameLen))
		if size > len(b) {
			return n, errors.New("READDIRPLUS: a name is cut off")
		}
		off, b = d.Dirent.Off, b[size:]
		n++
	}
	l.offsets[s.Index()] = off
	return n, nil
}
