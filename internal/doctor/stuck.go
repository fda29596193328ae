package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// Stuck is a request of a running daemon's guest that has not been answered for long.
type Stuck struct {
	Opcode string
	Path   string // of the node that it names: for a request with a name the directory; "" is not known
	For    time.Duration
}

// stuckAfter is how long a request takes that is not named yet, as in the daemon's log.
const stuckAfter = 5 * time.Second

// stuck lists the requests of a daemon, the oldest first, which its ledger says are stuck. looked is false
// if there is no ledger that can be read.
func (h host) stuck(pids []int) (list []Stuck, looked bool) {
	for _, pid := range pids {
		links, _ := filepath.Glob(filepath.Join(h.root, fmt.Sprintf("proc/%d/fd/*", pid)))
		for _, link := range links {
			if name, err := os.Readlink(link); err != nil || !strings.HasPrefix(name, "/memfd:"+ledger.FileName) {
				continue
			}
			f, err := os.Open(link)
			if err != nil {
				continue
			}
			list, looked = stuckIn(f)
			_ = f.Close()
			if looked {
				return list, true
			}
		}
	}
	return nil, false
}

func stuckIn(f *os.File) (list []Stuck, looked bool) {
	v, err := ledger.OpenView(int(f.Fd()))
	if err != nil {
		return nil, false
	}
	defer v.Close()
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	for r := range v.Requests {
		op, started := r.Cell.Opcode(), r.Cell.Started()
		age := time.Duration(now.Nano() - started)
		if started == 0 || age < stuckAfter || op == fuseproto.OpSetlkw { // which waits for another client
			continue
		}
		list = append(list, Stuck{Opcode: op.String(), For: age, Path: pathOf(v, r.Cell.Node())})
	}
	slices.SortFunc(list, func(a, b Stuck) int { return cmp.Compare(b.For, a.For) })
	return list, true
}

// mostNames bounds the names of a path in a message.
const mostNames = 64

// pathOf is the path of a node in the share; "" if it is not known.
func pathOf(v *ledger.View, node uint64) string {
	names, ok := v.Store.Names(uint32(node), mostNames)
	if !ok {
		return ""
	}
	var path strings.Builder
	for _, name := range names {
		path.WriteString("/" + name.String())
	}
	return cmp.Or(path.String(), "/")
}

// stuckListed is how many requests are named.
const stuckListed = 5

// stuck says which requests of the guest hang.
func (r *Report) stuck(s *Socket) {
	const check = "requests"
	if len(s.Stuck) == 0 {
		if s.Looked {
			r.ok(check, "no request of the guest has been under way for %v", stuckAfter)
		}
		return
	}
	pid := "PID"
	if s.PIDLives {
		pid = fmt.Sprint(s.PIDFile)
	}
	for _, q := range s.Stuck[:min(len(s.Stuck), stuckListed)] {
		at := ""
		if q.Path != "" {
			at = fmt.Sprintf(" at %q", q.Path)
		}
		r.add(Warn, check, fmt.Sprintf("kill -USR1 %s has the daemon log what its threads wait for; a file system of the host may not answer", pid),
			"%s%s has been under way for %v", q.Opcode, at, q.For.Round(time.Second))
	}
	if more := len(s.Stuck) - stuckListed; more > 0 {
		r.add(Warn, check, "", "and %d more", more)
	}
}
