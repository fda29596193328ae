package passthrough

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// PrintState writes what SaveState has written as text, a line a record: its kind, and words of
// the form key=value. Nodes have the numbers that the state's other records name them by; the share's
// root is 0. Names are quoted. The state may come from anywhere.
func PrintState(to io.Writer, from io.Reader) error {
	w := bufio.NewWriter(to)
	p := &statePrinter{w: w, r: record.NewReader(from, math.MaxInt64)}
	err := p.print()
	if flushing := w.Flush(); err == nil {
		err = flushing
	}
	return err
}

type statePrinter struct {
	w     *bufio.Writer
	r     *record.Reader
	nodes uint64 // with the root
}

func (p *statePrinter) print() error {
	p.nodes = 1
	fmt.Fprintf(p.w, "file-handles mode=%s\n", [...]string{"none", "find", "verify"}[p.r.Max(handlesVerify)])
	for p.r.Err() == nil {
		switch tag := p.r.Uint(); {
		case p.r.Err() != nil:
		case tag == stateNode:
			p.node()
		case tag == stateOpenFile:
			p.line("open id=%d node=%d flags=%#x", p.r.Uint(), p.r.Uint(), p.r.Uint())
		case tag == stateLock:
			p.line("lock node=%d owner=%d type=%s start=%d end=%d", p.r.Uint(), p.r.Uint(), lockType(p.r.Uint()), p.r.Uint(), p.r.Uint())
		case tag == stateFlock:
			p.line("flock open=%d type=%s", p.r.Uint(), lockType(p.r.Uint()-flockShared))
		case tag == stateOwner:
			p.line("owner number=%d open=%d pid=%d", p.r.Uint(), p.r.Uint(), p.r.Uint())
		case tag == stateEnd:
			p.line("end node-slots=%d node-generations=%d open-slots=%d open-generations=%d", p.r.Uint(), p.r.Uint(), p.r.Uint(), p.r.Uint())
			return p.r.Err()
		default:
			return fmt.Errorf("passthrough: a record of an unknown kind, %d", tag)
		}
	}
	return p.r.Err()
}

// line prints a record if all of it was there.
func (p *statePrinter) line(format string, args ...any) {
	if p.r.Err() == nil {
		fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func lockType(exclusive uint64) string {
	switch exclusive {
	case 0:
		return "shared"
	case 1:
		return "exclusive"
	}
	return fmt.Sprint(exclusive)
}

func (p *statePrinter) node() {
	id, lookups, kind := p.r.Uint(), p.r.Uint(), p.r.Uint()
	place := ""
	switch where := p.r.Max(locatedByPath); where {
	case locatedInParent:
		parent := p.r.Uint()
		place = fmt.Sprintf(" parent=%d name=%+q", parent, p.r.Bytes(fp.NameMax))
	case locatedByPath:
		place = fmt.Sprintf(" path=%+q", p.r.Bytes(unix.PathMax))
	}
	if handle := p.r.Bytes(maxFileHandle); len(handle) > 0 {
		place += fmt.Sprintf(" file-handle=%x", handle)
	}
	p.line("node number=%d id=%d lookups=%d kind=%#o%s", p.nodes, id, lookups, kind, place)
	p.nodes++
}
