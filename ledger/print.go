package ledger

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// Print writes what the ledger has, a line a record: its kind, and words of the form key=value.
// Names are quoted. Later versions add kinds and keys, and change none.
func (v *View) Print(to io.Writer) error {
	w := bufio.NewWriter(to)
	i := v.Info()
	fmt.Fprintf(w, "ledger version=%d oldest=%d generation=%d serving=%s ended=%s memory=%d",
		i.Version, i.Oldest, i.Generation, yesNo(i.Serving), yesNo(i.Ended), i.Memory)
	if i.Unplaced > 0 {
		fmt.Fprintf(w, " unplaced=%d", i.Unplaced)
	}
	fmt.Fprintln(w)
	sizes := v.AreaSizes()
	for k := range numAreas {
		if size, ok := sizes[k]; ok {
			fmt.Fprintf(w, "area name=%v bytes=%d\n", k, size)
		}
	}
	for r := range v.Rings {
		fmt.Fprintf(w, "ring queue=%d next=%d taken=%d\n", r.Queue, r.Next, r.Taken)
	}
	requests, nodes, opens := 0, 0, 0
	for r := range v.Requests {
		requests++
		printRequest(w, r)
	}
	for n := range v.Store.Nodes {
		nodes++
		printNode(w, n)
	}
	for o := range v.Store.Opens {
		opens++
		fmt.Fprintf(w, "open id=%d node-slot=%d flags=%#x bits=%#x\n", o.ID, o.Node, o.Flags, o.Bits)
	}
	owners, locks := 0, 0
	for i, o := range v.Store.LockOwners {
		owners++
		fmt.Fprintf(w, "lock-owner record=%d node=%d number=%d open=%d pid=%d\n", i, o.Node, o.Number, o.Open, o.PID)
	}
	for i, l := range v.Store.Locks {
		locks++
		fmt.Fprintf(w, "lock record=%d owner-record=%d exclusive=%s start=%d end=%d\n", i, l.Owner, yesNo(l.Exclusive), l.Start, l.End)
	}
	fmt.Fprintf(w, "end requests=%d nodes=%d opens=%d lock-owners=%d locks=%d\n", requests, nodes, opens, owners, locks)
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

var (
	phaseNames = map[fuse.Phase]string{fuse.PhaseTaken: "taken", fuse.PhaseIntent: "intent", fuse.PhaseDone: "done"}
	grantNames = map[fuse.GrantPhase]string{fuse.Returning: "returning", fuse.Lowering: "lowering",
		fuse.Lowered: "lowered"}
)

// known is the name of a phase, or its number: a hostile process may have written any.
func known[P ~uint8](names map[P]string, p P) string {
	if name, ok := names[p]; ok {
		return name
	}
	return fmt.Sprint(uint8(p))
}

func printRequest(w io.Writer, r *Request) {
	c := &r.Cell
	opcode := strings.ReplaceAll(c.Opcode().String(), " ", "-") // one that is not known
	fmt.Fprintf(w, "request queue=%d head=%d opcode=%s unique=%d node=%d phase=%s tries=%d order=%d index=%d started-ns=%d",
		r.Queue, r.Head, opcode, c.Unique(), c.Node(), known(phaseNames, c.Phase()), c.Tries(), c.Order(), c.Avail(), c.Started())
	if step := c.Step(); step != 0 {
		fmt.Fprintf(w, " step=%d", step)
	}
	if written, used := c.Reply(); c.Phase() == fuse.PhaseDone {
		fmt.Fprintf(w, " written=%d used=%d", written, used)
	}
	if stamp, e, ok := c.Intent(); ok {
		fmt.Fprintf(w, " stamp-ns=%d evidence=%x", stamp, e)
	}
	if p := c.GrantPhase(); p != fuse.GrantNone {
		fmt.Fprintf(w, " grant=%s", known(grantNames, p))
	}
	if kept := c.KeptGrants(); forgets(c) {
		id, after := c.Change()
		fmt.Fprintf(w, " item=%d forgotten-id=%d forgotten-after=%d", kept, id, after)
	} else if _, n := split(kept); n != 0 {
		fmt.Fprintf(w, " grants=%d", n)
	}
	fmt.Fprintln(w)
}

func printNode(w io.Writer, n *Node) {
	fmt.Fprintf(w, "node id=%d lookups=%d", n.ID, n.Lookups)
	if n.Name != nil {
		fmt.Fprintf(w, " parent-slot=%d name=%+q", n.Parent, n.Name.Bytes())
	}
	fmt.Fprintf(w, " dev=%d:%d ino=%d mount=%d kind=%d birth=%d.%09d", n.Dev>>32, uint32(n.Dev), n.Ino, n.Mount, n.Kind, n.BirthSec, n.BirthNsec)
	if n.FileHandle != nil {
		fmt.Fprintf(w, " file-handle=%x", n.FileHandle)
	}
	if n.StandIn != 0 {
		fmt.Fprintf(w, " stand-in=%d", n.StandIn)
	} else if n.Unkeyed {
		fmt.Fprint(w, " unkeyed=yes")
	}
	fmt.Fprintln(w)
}
