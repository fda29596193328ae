package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// image is what a ledger's file has, by offset.
type image []extent

type extent struct {
	at int64
	b  []byte
}

func imageOf(t testing.TB, l *Ledger) (m image) {
	t.Helper()
	for at := int64(0); ; {
		from, err := unix.Seek(l.fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return m
		}
		to, err2 := unix.Seek(l.fd, from, unix.SEEK_HOLE)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		m = append(m, extent{from, bytes.Clone(l.memory[from:to])})
		at = to
	}
}

func (m image) equal(o image) bool {
	return slices.EqualFunc(m, o, func(a, b extent) bool { return a.at == b.at && bytes.Equal(a.b, b.b) })
}

// ledger is a ledger of its own, as a process that died has left it.
func (m image) ledger(t testing.TB) *Ledger {
	t.Helper()
	l, err := Create()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m {
		if err := l.need(e.at, int64(len(e.b))); err != nil {
			t.Fatal(err)
		}
		copy(l.memory[e.at:], e.b)
	}
	return l
}

// deaths calls f and returns what would be left if the process died, before and after each store.
func deaths(t testing.TB, l *Ledger, f func(note func())) (dead []image) {
	t.Helper()
	note := func() {
		if m := imageOf(t, l); len(dead) == 0 || !m.equal(dead[len(dead)-1]) {
			dead = append(dead, m)
		}
	}
	storing.SetHook(note)
	defer storing.SetHook(nil)
	f(note)
	note()
	return dead
}

// request is something that a client wants, which is done to the tables of a process.
type request struct {
	name   string
	opcode fp.Opcode
	serve  func(s *share, by *fuse.Cell)
	items  []forgetItem // of a FORGET, instead of serve
}

// forgetItem is an inode number, or with a high one an id that nobody has.
type forgetItem struct{ ino, lookups uint64 }

// crash serves requests, each of which dies at each store.
type crash struct {
	t      *testing.T
	s      *share
	queue  *Queue
	unique uint64
	stores int
}

const crashQueue = 3

// state is what the client has, to compare: without places, which a request that is served
// again finds as they are.
type state struct {
	lines []string // nodes with their counts, and open files
	rest  int      // nodes that are only needed by others
}

var place = regexp.MustCompile(` \d+ "n*" [0-9a-f]*$`)

func (s *share) state(withPlaces bool) state {
	st := state{lines: withoutRoot(s.lines())}
	if !withPlaces {
		for i, l := range st.lines {
			st.lines[i] = place.ReplaceAllString(l, "")
		}
	}
	for n := range s.store.Nodes {
		if n.Lookups == 0 {
			st.rest++
		}
	}
	return st
}

var number = regexp.MustCompile(`(node|open) 0x[0-9a-f]+`)

// unnumbered leaves out ids, which are others when a request is served again.
func (s *share) unnumbered() (list []string) {
	inos := map[string]string{}
	for n := range s.nodes.All {
		inos[fmt.Sprintf("%#x", n.ID())] = fmt.Sprint("ino", n.Key().Ino)
		inos[fmt.Sprint(uint32(n.ID()))] = fmt.Sprint("ino", n.Key().Ino)
	}
	parent := regexp.MustCompile(`\} (\d+) "`)
	open := regexp.MustCompile(`^open (0x[0-9a-f]+)`)
	for _, l := range withoutRoot(s.lines()) {
		l = number.ReplaceAllString(l, "$1")
		l = parent.ReplaceAllStringFunc(l, func(m string) string { return "} " + inos[parent.FindStringSubmatch(m)[1]] + ` "` })
		l = open.ReplaceAllStringFunc(l, func(m string) string { return "open " + inos[open.FindStringSubmatch(m)[1]] })
		list = append(list, l)
	}
	for i, l := range list { // "open  0x5 7": the node behind it
		if rest, ok := strings.CutPrefix(l, "open "); ok {
			id, flags, _ := strings.Cut(rest, " ")
			list[i] = "open " + inos[id] + " " + flags
		}
	}
	slices.Sort(list)
	return list
}

// serve does all of a request.
func (c *crash) serve(s *share, r *request, by *fuse.Cell, between func()) {
	if r.items == nil {
		r.serve(s, by)
		return
	}
	done := by.Forgotten()
	for i, item := range r.items {
		if uint32(i) < done {
			continue
		}
		if r.opcode == fp.OpBatchForget {
			by.Forgetting(uint32(i))
		}
		if n := s.nodes.Find(nil, idOf(item.ino), 0, nil); n != nil {
			s.nodes.Forget(by, n, item.lookups)
			s.nodes.Release(n)
		}
		between()
	}
}

// do serves a request to the end, and lets it die at each store.
func (c *crash) do(r *request) {
	c.unique++
	before, places := c.s.state(false), c.s.lines()
	items := []state{before}
	cell := c.queue.Cell(uint16(c.unique % 8))
	cell.Take(&fp.InHeader{Unique: c.unique, Opcode: uint32(r.opcode)}, c.unique, uint16(c.unique), 0)
	dead := deaths(c.t, c.s.ledger, func(note func()) {
		c.serve(c.s, r, cell, func() {
			storing.SetHook(nil)
			items = append(items, c.s.state(false))
			storing.SetHook(note)
		})
		cell.Done(80, 1)
	})
	after := c.s.state(false)
	c.s.check(c.t, r.name)
	places = append(places, c.s.lines()...)
	want := c.s.unnumbered()
	for i, m := range dead {
		what := fmt.Sprintf("%s (request %d), death %d of %d", r.name, c.unique, i, len(dead))
		c.inherit(what, m, r, before, after, items, places, want, true)
	}
	c.stores += len(dead)
	cell.Free()
}

// inherit is what a successor makes of a ledger. It may die as well.
func (c *crash) inherit(what string, m image, r *request, before, after state, items []state, places, want []string, again bool) {
	if again {
		dying := m.ledger(c.t)
		for i, m := range deaths(c.t, dying, func(func()) { begin(c.t, dying) }) {
			c.inherit(fmt.Sprintf("%s, second death %d", what, i), m, r, before, after, items, places, want, false)
		}
		_ = dying.Close()
	}
	l := m.ledger(c.t)
	defer l.Close()
	s := begin(c.t, l)
	q, err := l.Queue(crashQueue, 8)
	if err != nil {
		c.t.Fatal(err)
	}
	cell := q.Cell(uint16(c.unique % 8))
	s.check(c.t, what)
	s.checkNames(c.t, what)
	got, wanted := s.state(false), before
	switch {
	case cell.Phase() == fuse.PhaseDone:
		wanted = after
	case r.items != nil:
		wanted = items[min(int(cell.Forgotten()), len(items)-1)]
	}
	compare(c.t, what, got.lines, wanted.lines)
	if got.rest != wanted.rest && got.rest != after.rest {
		c.t.Fatalf("%s: %d nodes are only needed by others, want %d", what, got.rest, wanted.rest)
	}
	for _, line := range withoutRoot(s.lines()) {
		if !slices.ContainsFunc(places, func(p string) bool { return place.FindString(p) == place.FindString(line) }) {
			c.t.Fatalf("%s: nothing was ever at the place of %s", what, line)
		}
	}
	if cell.Phase() == fuse.PhaseDone {
		return
	}
	if cell.GrantPhase() != fuse.GrantNone && r.items == nil || cell.KeptGrants() != 0 && r.items == nil {
		c.t.Fatalf("%s: the cell still has %d grants, phase %d", what, cell.KeptGrants(), cell.GrantPhase())
	}
	cell.TakeAgain(5)
	c.serve(s, r, cell, func() {})
	compare(c.t, what+", served again", s.unnumbered(), want)
}

// checkNames counts names that are in use.
func (s *share) checkNames(t *testing.T, what string) {
	t.Helper()
	want, got := 0, 0
	for n := range s.store.Nodes {
		if ref := nameRef(s.store.node(uint32(n.ID)).place); ref != 0 && ref != nameInside {
			want++
		}
	}
	for i := range s.store.names.classes {
		class := &s.store.names.classes[i]
		for chunk := range class.maps {
			if c := class.chunks.At(uint32(chunk)); c != nil {
				got += int(c.used)
			}
		}
	}
	if got != want {
		t.Fatalf("%s: %d names are in use, want %d", what, got, want)
	}
}

// lookup is what a LOOKUP does.
func (s *share) lookup(by *fuse.Cell, ino, dir uint64, name string, same bool) *file {
	n := s.nodes.Intern(by, idOf(ino), func(*file) bool { return same }, func() *file { return new(file) })
	if p := s.nodes.Find(nil, idOf(dir), 0, nil); p != nil {
		if n != p && name != "" {
			s.nodes.Place(n, p, fp.Name(name+"\x00"))
		}
		s.nodes.Release(p)
	}
	return n
}

func (s *share) has(ino uint64) *file { return s.nodes.Find(nil, idOf(ino), 0, nil) }

// requests makes one of each kind.
func requests(random *rand.Rand) []*request {
	ino := func() uint64 { return 1 + random.Uint64N(30) }
	a, b, c, d, e := ino(), ino(), ino(), ino(), ino()
	name := strings.Repeat("n", 1+random.IntN(255>>random.IntN(7)))
	handle := make([]byte, random.IntN(140))
	lookups := random.Uint64N(4)
	with := func(ino uint64, f func(s *share, n *file)) func(*share, *fuse.Cell) {
		return func(s *share, _ *fuse.Cell) {
			if n := s.has(ino); n != nil {
				f(s, n)
				s.nodes.Release(n)
			}
		}
	}
	list := []*request{
		{name: "lookup", opcode: fp.OpLookup, serve: func(s *share, by *fuse.Cell) { s.nodes.Release(s.lookup(by, a, b%a, name, true)) }},
		{name: "lookup that is refused", opcode: fp.OpLookup, serve: func(s *share, by *fuse.Cell) {
			n := s.lookup(by, a, b%a, name, true)
			s.nodes.Forget(by, n, 1)
			s.nodes.Release(n)
		}},
		{name: "create", opcode: fp.OpCreate, serve: func(s *share, by *fuse.Cell) {
			n := s.lookup(by, c, b%c, name, true)
			n.Hold()
			s.opens.Add(by, &opened{node: n, flags: 7})
			s.nodes.Release(n)
		}},
		{name: "create that fails in the end", opcode: fp.OpCreate, serve: func(s *share, by *fuse.Cell) {
			n := s.lookup(by, c, b%c, name, true)
			n.Hold()
			f := &opened{node: n, flags: 7}
			s.opens.Add(by, f)
			s.opens.Close(f)
			s.nodes.Forget(by, n, 1)
			s.nodes.Release(n)
		}},
		{name: "open", opcode: fp.OpOpen, serve: func(s *share, by *fuse.Cell) {
			if n := s.has(d); n != nil {
				n.Hold()
				s.opens.Add(by, &opened{node: n, flags: 9})
				s.nodes.Release(n)
			}
		}},
		{name: "readdirplus", opcode: fp.OpReaddirplus, serve: func(s *share, by *fuse.Cell) {
			for i, ino := range []uint64{a, b, c, c, d, e} {
				n := s.lookup(by, ino, e%ino, name, true)
				if i == 2 || i == 4 { // it does not fit
					s.nodes.Forget(by, n, 1)
				}
				s.nodes.Release(n)
			}
			for _, ino := range []uint64{e, c} { // nor do the last two
				n := s.has(ino)
				s.nodes.Forget(by, n, 1)
				s.nodes.Release(n)
			}
		}},
		{name: "forget", opcode: fp.OpForget, items: []forgetItem{{a, lookups}}},
		{name: "batch forget", opcode: fp.OpBatchForget, items: []forgetItem{{b, 1}, {1 << 40, 1}, {c, 2}, {b, 1}, {d, 0}, {e, ^uint64(0)}}},
		{name: "unlink", opcode: fp.OpUnlink, serve: with(a, func(s *share, n *file) { s.nodes.Displace(n) })},
		{name: "rename", opcode: fp.OpRename, serve: with(b, func(s *share, n *file) {
			if p := s.has(c % b); p != nil {
				s.nodes.Place(n, p, fp.Name(name+"\x00"))
				s.nodes.Release(p)
			}
		})},
		{name: "file handle", opcode: fp.OpGetattr, serve: with(c, func(s *share, n *file) {
			n.Lock()
			s.nodes.SetFileHandle(n, handle)
			n.Unlock()
		})},
		{name: "lookup of a number that is another file's", opcode: fp.OpLookup, serve: func(s *share, by *fuse.Cell) {
			s.nodes.Release(s.lookup(by, d, e%d, name, false))
		}},
	}
	return list
}

// TestDeath lets a process die at each store that each kind of request makes, and its successor
// at each store that it makes then. What the client has is what it had before the request, or, as
// far as the cell says that something is done, after it. Served again, the request leaves what it
// would have left without a death.
func TestDeath(t *testing.T) {
	l := create(t)
	q, err := l.Queue(crashQueue, 8)
	if err != nil {
		t.Fatal(err)
	}
	c := &crash{t: t, s: begin(t, l), queue: q}
	random := rand.New(rand.NewPCG(3, 3))
	for range 4 {
		for _, r := range requests(random) {
			c.do(r)
		}
		for f := range c.s.opens.All {
			if random.IntN(2) == 0 {
				c.s.opens.Close(f)
			}
		}
	}
	t.Logf("%d deaths", c.stores)
}
