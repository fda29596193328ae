package passthrough

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// serveAgain has g serve a request that a predecessor has died of.
func (g *guest) serveAgain(c *fuse.Cell, call func(g *guest, r *server.Request) unix.Errno) unix.Errno {
	c.TakeAgain(0)
	r := g.on(fp.RootID)
	r.Header.Unique = c.Unique()
	r.Cell = c
	r.Again = &server.Again{Step: c.Step()}
	r.Again.Stamp, r.Again.Evidence, r.Again.Intended = c.Intent()
	return call(g, r)
}

// twoMakers are the cells of two requests that want to make the same name. The first has made it in g; the other has noted only
// that it is about to.
func (l *line) twoMakers(t *testing.T, g *guest, op fp.Opcode, call func(g *guest, r *server.Request) unix.Errno) (maker, other *fuse.Cell) {
	t.Helper()
	queue, err := l.ledger.Queue(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	maker, other = queue.Cell(0), queue.Cell(1)
	maker.Take(&fp.InHeader{Unique: 4, NodeID: fp.RootID, Opcode: uint32(op)}, 1, 0, 0)
	other.Take(&fp.InHeader{Unique: 6, NodeID: fp.RootID, Opcode: uint32(op)}, 2, 1, 0)
	other.Intend(coarseTime(), fuse.Evidence{})
	r := g.on(fp.RootID)
	r.Cell = maker
	wantErrno(t, "the first", call(g, r), 0)
	r.Cell = nil
	return maker, other
}

// TestOneMaker: two requests want to make the same name, and the process dies when one has made it and the other
// has not noted yet that it was refused. Only the one that has made it may succeed.
func TestOneMaker(t *testing.T) {
	for op, call := range map[fp.Opcode]func(g *guest, r *server.Request) unix.Errno{fp.OpMkdir: callMkdir, fp.OpCreate: callCreate(unix.O_EXCL)} {
		for _, c := range []struct {
			name         string
			answered     bool // the first was answered before the death
			noted        bool // the first has noted that it has made it
			refusedFirst bool // the other is served first
		}{
			{name: "answered", answered: true},
			{name: "noted", noted: true},
			{name: "noted, the other first", noted: true, refusedFirst: true},
			{name: "not noted"},
			{name: "not noted, the other first", refusedFirst: true},
		} {
			t.Run(op.String()+" "+c.name, func(t *testing.T) {
				l := newLine(t, nil, 0)
				g := l.first(t)
				maker, other := l.twoMakers(t, g, op, call)
				if c.answered {
					maker.Free()
				} else if !c.noted {
					maker.SetStep(0)
				}
				next := l.next(t, g)
				var got []unix.Errno
				if c.refusedFirst {
					maker, other = other, maker
				}
				if !c.answered {
					got = append(got, next.serveAgain(maker, call))
				} else {
					got = append(got, 0)
				}
				got = append(got, next.serveAgain(other, call))
				want := []unix.Errno{0, unix.EEXIST}
				if c.noted && c.refusedFirst {
					want[0], want[1] = want[1], want[0]
				}
				if !slices.Equal(got, want) {
					t.Errorf("the replies are %v", got)
				}
			})
		}
	}
}

// TestOneMakerTwice: one of two requests that want to make the same name is served again and answered. The next process that dies leaves
// the other one, which has not made it.
func TestOneMakerTwice(t *testing.T) {
	for op, call := range map[fp.Opcode]func(g *guest, r *server.Request) unix.Errno{fp.OpMkdir: callMkdir, fp.OpCreate: callCreate(unix.O_EXCL)} {
		for _, answered := range []bool{true, false} {
			l := newLine(t, nil, 0)
			g := l.first(t)
			one, other := l.twoMakers(t, g, op, call)
			one.SetStep(0) // it had not come to that
			next := l.next(t, g)
			wantErrno(t, "the first, served again", next.serveAgain(one, call), 0)
			if answered {
				one.Free()
			}
			last := l.next(t, next)
			wantErrno(t, op.String()+", the other", last.serveAgain(other, call), unix.EEXIST)
			if !answered {
				wantErrno(t, op.String()+", the first, served for the third time", last.serveAgain(one, call), 0)
			}
		}
	}
}
