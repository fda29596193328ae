package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// scaling is one measurement of a target with one directory.
type scaling struct {
	runner  *runner
	session *session
	dir     uint64
	table   nodeTable
	middle  uint64 // the position after half of the entries
	out     Scale
}

// scaleTarget starts a daemon and runs all steps. If the daemon fails at a step, the
// figures say so.
func (r *runner) scaleTarget(t *Target, n int) (m Scale, err error) {
	s, err := openSession(r.ctx, t, r.opts)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	x := &scaling{runner: r, session: s, out: Scale{Target: t.Name, Files: n},
		table: nodeTable{nodes: make([]uint64, n), counts: make([]uint64, n)}}
	top, err := s.client.Lookup(rootID, r.files.name)
	if err != nil {
		return m, fmt.Errorf("look up %s: %w", r.files.name, s.explain(err))
	}
	list, err := s.client.Lookup(top.NodeID, "list")
	if err != nil {
		return m, s.explain(err)
	}
	x.dir = list.NodeID
	for _, step := range []func() error{x.names, x.new, x.known, x.positions, x.lookups, x.forget} {
		err := step()
		if r.ctx.Err() != nil {
			return m, errors.Join(err, r.ctx.Err())
		}
		if err != nil {
			x.out.Failed = err.Error()
			break
		}
	}
	return x.out, nil
}

// private is the daemon's private memory.
func (x *scaling) private() (sum float64) {
	for _, pid := range x.session.pids {
		_, private, err := processMemory(pid)
		if err == nil { // a daemon that has ended has none
			sum += private
		}
	}
	return sum
}

// walk opens the directory and reads it.
func (x *scaling) walk(w *walk) (l Listing, err error) {
	c := x.session.client
	if w.fh, err = c.Opendir(x.dir); err != nil {
		return l, fmt.Errorf("OPENDIR: %w", err)
	}
	defer func() {
		if err == nil {
			err = c.Releasedir(x.dir, w.fh)
		}
	}()
	p, err := c.Queues[1].NewPipe(1)
	if err != nil {
		return l, err
	}
	defer p.Close()
	w.ctx, w.node, w.size, w.table, w.pipe = x.runner.ctx, x.dir, x.runner.opts.ListSize, &x.table, p
	cpu, err := treeCPU(x.session.pids)
	if err != nil {
		return l, err
	}
	start := time.Now()
	if err := p.Run(w); err != nil {
		return l, err
	}
	wall := time.Since(start)
	after, err := treeCPU(x.session.pids)
	n := float64(w.entries)
	return Listing{PerSecond: ratio(n, wall.Seconds()), CPU: ratio(us(int64(after-cpu)), n),
		P50: us(w.latency.Quantile(0.5)), Max: us(w.latency.Max())}, err
}

// names reads the names alone. This makes no nodes, so the memory is that of reading.
func (x *scaling) names() (err error) {
	before, most, next := x.private(), 0.0, 0
	_, err = x.walk(&walk{each: func(n int, off uint64) {
		if n <= x.out.Files/2 || x.middle == 0 {
			x.middle = off
		}
		if n >= next { // ten measurements are enough; each costs time
			most, next = max(most, x.private()), n+x.out.Files/10+1
		}
	}})
	x.out.Reading = max(0, most-before)
	if err == nil {
		x.out.Names, err = x.walk(&walk{again: x.runner.opts.Duration})
	}
	return err
}

// fewNodes is a number of nodes whose memory is too small to measure.
const fewNodes = 1000

// new reads attributes, which makes nodes.
func (x *scaling) new() (err error) {
	before := x.private()
	if x.out.New, err = x.walk(&walk{plus: true}); err != nil {
		return err
	}
	if known := x.table.known(); known != x.out.Files {
		return fmt.Errorf("READDIRPLUS: %d nodes of %d files", known, x.out.Files)
	}
	if x.out.Files >= fewNodes {
		x.out.Node = max(0, x.private()-before) / float64(x.out.Files)
	}
	x.out.Descriptors = float64(descriptors(x.session.pids))
	return nil
}

func (x *scaling) known() (err error) {
	x.out.Known, err = x.walk(&walk{plus: true, again: x.runner.opts.Duration})
	return err
}

// looks is how often a single reply is timed.
const looks = 20

// positions times single replies, each of an open file that has read nothing.
func (x *scaling) positions() error {
	for _, p := range []struct {
		off uint64
		to  *float64
	}{{0, &x.out.First}, {x.middle, &x.out.Middle}} {
		var v []float64
		for range looks {
			l, err := x.walk(&walk{plus: true, off: p.off, requests: 1})
			if err != nil {
				return err
			}
			v = append(v, l.Max)
		}
		*p.to = median(v)
	}
	return nil
}

// lookups looks known nodes up at random, so that no lookup finds its data in a
// cache because of the one before.
func (x *scaling) lookups() error {
	list := names(x.out.Files)
	for _, depth := range x.runner.opts.Depths {
		j := simple{func(queue, depth int) operation {
			random, asked := noise{1}, make([]int, depth)
			return &steps{
				build: func(s *frontend.Slot) {
					i := random.below(len(list))
					asked[s.Index()] = i
					lookup(s, x.dir, list[i])
				},
				check: func(s *frontend.Slot) (int, error) {
					node, err := entry(s, fp.Size[fp.EntryOut]())
					if i := asked[s.Index()]; err == nil {
						err = x.table.again(i, node)
					}
					return 1, err
				},
			}
		}}
		h := new(Hist)
		m, err := x.runner.measure(x.session, j, depth, x.runner.opts.Duration, h)
		if err != nil {
			return err
		}
		x.out.Lookups = append(x.out.Lookups, ScaleLookup{Depth: depth, PerSecond: perSecond(m), CPU: cpuPerUnit(m),
			P50: us(h.Quantile(0.5)), P999: us(h.Quantile(0.999)), Max: us(h.Max())})
	}
	return nil
}

// again notes another lookup of file number i.
func (t *nodeTable) again(i int, node uint64) error {
	if t.nodes[i] != node {
		return fmt.Errorf("%s is node %d and was %d", fileName(i), node, t.nodes[i])
	}
	t.counts[i]++
	return nil
}

// forget drops all references. A chain comes back when its request is done, without a reply.
func (x *scaling) forget() error {
	cpu, err := treeCPU(x.session.pids)
	if err != nil {
		return err
	}
	q := x.session.client.Queues[0]
	p, err := q.NewPipe(min(8, len(q.Slots)))
	if err != nil {
		return err
	}
	i := 0
	err = p.Run(&sender{func(s *frontend.Slot) bool {
		if i == len(x.table.nodes) {
			return false
		}
		forget(s, x.table.nodes[i], x.table.counts[i])
		i++
		return true
	}})
	p.Close()
	if err != nil {
		return err
	}
	after, err := treeCPU(x.session.pids)
	x.out.Forget = ratio(us(int64(after-cpu)), float64(x.out.Files))
	return err
}

// sender is a frontend.Source of requests without replies.
type sender struct{ next func(*frontend.Slot) bool }

func (f *sender) Next(s *frontend.Slot) bool { return f.next(s) }
func (f *sender) Done(*frontend.Slot) error  { return nil }

// descriptors counts the open files of processes.
func descriptors(pids []int) (n int) {
	for _, pid := range pids {
		dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue
		}
		list, _ := dir.Readdirnames(-1)
		n += len(list)
		_ = dir.Close()
	}
	return n
}

// floorScale makes the bare system calls for the same work: getdents64, and statx of each
// name.
func floorScale(ctx context.Context, f *files, n int, o *Options) (m Scale, err error) {
	m = Scale{Target: floorName, Files: n}
	dir, err := openPath(f, "list", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return m, err
	}
	list := cStrings(names(n))
	var st unix.Statx_t
	buf := make([]byte, o.ListSize)
	for _, part := range []struct {
		stat bool
		to   *Listing
	}{{false, &m.Names}, {true, &m.Known}} {
		ff := floorFunc{batch: func() (int, error) { return floorList(dir, buf, part.stat, &st) }}
		s, err := measureFloor(ctx, ff, 1, o.Duration)
		if err != nil {
			return m, errors.Join(err, unix.Close(dir))
		}
		*part.to = Listing{PerSecond: perSecond(s), CPU: cpuPerUnit(s)}
	}
	random := noise{1}
	ff := loop(func(int) error {
		return rawStatx(dir, list[random.below(n)], unix.AT_SYMLINK_NOFOLLOW, &st)
	}, dir)
	defer ff.close()
	s, err := measureFloor(ctx, ff, 1, o.Duration)
	for _, depth := range o.Depths {
		m.Lookups = append(m.Lookups, ScaleLookup{Depth: depth, PerSecond: perSecond(s), CPU: cpuPerUnit(s)})
	}
	return m, err
}

// The offsets of the length and the name in struct linux_dirent64
// (getdents64(2)).
const (
	direntLen  = 16
	direntName = 19
)

// floorList reads a directory, and looks at each name if stat is set.
func floorList(dir int, buf []byte, stat bool, st *unix.Statx_t) (units int, err error) {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return 0, err
	}
	for {
		n, _, e := unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(dir), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if e != 0 || n == 0 {
			return units, result(e)
		}
		for b := buf[:n]; len(b) > 0; units++ {
			// A struct linux_dirent64 is as long as its name; unix.Dirent could reach beyond
			// the buffer.
			if stat {
				if err := rawStatx(dir, &b[direntName], unix.AT_SYMLINK_NOFOLLOW, st); err != nil {
					return units, err
				}
			}
			b = b[binary.NativeEndian.Uint16(b[direntLen:]):]
		}
	}
}
