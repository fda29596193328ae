package bench

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Workload is a kind of operation that a back-end is measured with.
type Workload struct {
	Name  string
	Title string // what one operation is, for people
	Unit  string // what is counted: "op" or "entry"
	Bytes int    // file data that one operation moves
	// Disk is set if the workload waits for the disk, so that its speed is the
	// disk's.
	Disk bool

	needs need
	setup func(*session) (job, error)
	floor func(*files) (floorFunc, error) // the bare system calls; may be nil
}

// job is a workload on one session, shared by its queues.
type job interface {
	// worker makes the part that one queue's thread drives.
	worker(queue, depth int) operation
	// between is called before each stretch of measuring. Its time is not
	// measured.
	between(*session) error
}

// operation makes the requests of one queue. Slot numbers are less than the depth; an
// operation of several requests keeps its place for each slot.
type operation interface {
	// next writes the next request of a slot. It returns false if this stretch
	// is over.
	next(*frontend.Slot) bool
	// done reads the reply and returns how many units are complete with it.
	done(*frontend.Slot) (units int, err error)
}

// Workloads are all workloads, in the order of reports.
func Workloads() []Workload {
	return []Workload{
		{Name: "getattr", Title: "GETATTR of known nodes", Unit: "op", needs: needSmall, setup: setupGetattr, floor: floorGetattr},
		{Name: "lookup", Title: "LOOKUP of names whose nodes are known", Unit: "op", needs: needSmall, setup: setupLookup, floor: floorLookup},
		{Name: "lookup-new", Title: "LOOKUP of new nodes, forgotten in between", Unit: "op", needs: needMany, setup: setupLookupNew, floor: floorLookupNew},
		{Name: "lookup-missing", Title: "LOOKUP of names that do not exist", Unit: "op", needs: needSmall, setup: setupLookupMissing, floor: floorLookupMissing},
		{Name: "open", Title: "OPEN and RELEASE", Unit: "op", needs: needSmall, setup: setupOpen, floor: floorOpen},
		{Name: "read-4k", Title: "READ of 4 KiB at random in a cached file", Unit: "op", Bytes: 4 << 10, needs: needBig, setup: setupRead(4<<10, "big"), floor: floorRead(4<<10, "big")},
		{Name: "read-1m", Title: "READ of 1 MiB in sequence from a cached file", Unit: "op", Bytes: 1 << 20, needs: needBig, setup: setupRead(1<<20, "big"), floor: floorRead(1<<20, "big")},
		{Name: "randread", Title: "READ of 4 KiB at random from disk", Unit: "op", Bytes: 4 << 10, Disk: true, needs: needCold, setup: setupRead(4<<10, "cold"), floor: floorRead(4<<10, "cold")},
		{Name: "write-4k", Title: "WRITE of 4 KiB at random in a file, one for each queue", Unit: "op", Bytes: 4 << 10, needs: needBig | needOut, setup: setupWrite(4 << 10), floor: floorWrite(4 << 10)},
		{Name: "write-1m", Title: "WRITE of 1 MiB in sequence, a file for each queue", Unit: "op", Bytes: 1 << 20, needs: needBig | needOut, setup: setupWrite(1 << 20), floor: floorWrite(1 << 20)},
		{Name: "fsync", Title: "WRITE of 4 KiB and FSYNC", Unit: "op", Bytes: 4 << 10, Disk: true, setup: setupFsync, floor: floorFsync},
		{Name: "readdirplus", Title: "READDIRPLUS of a directory of 1,000", Unit: "entry", needs: needList, setup: setupReaddirplus, floor: floorReaddirplus},
		{Name: "create", Title: "CREATE, RELEASE, UNLINK and FORGET", Unit: "op", setup: setupCreate, floor: floorCreate},
		{Name: "mkdir", Title: "MKDIR, RMDIR and FORGET", Unit: "op", setup: setupMkdir, floor: floorMkdir},
		{Name: "rename", Title: "RENAME to and fro", Unit: "op", setup: setupRename, floor: floorRename},
		{Name: "mixed", Title: "a mix of all that does not wait for the disk", Unit: "op", needs: needSmall | needBig | needOut, setup: setupMixed},
	}
}

// FindWorkloads picks workloads by name; no name is all of them.
func FindWorkloads(names []string) ([]Workload, error) {
	all := Workloads()
	if len(names) == 0 {
		return all, nil
	}
	var picked []Workload
next:
	for _, name := range names {
		for _, w := range all {
			if w.Name == name {
				picked = append(picked, w)
				continue next
			}
		}
		return nil, fmt.Errorf("no workload is called %q", name)
	}
	return picked, nil
}

// request begins a request in a slot; see frontend.ShapeOf for args and data.
func request(s *frontend.Slot, op fp.Opcode, node uint64, args, data int) {
	s.SetShape(frontend.ShapeOf(op, args, data))
	h := s.Header()
	h.Opcode, h.NodeID, h.PID = uint32(op), node, 1
}

// nameArgs writes a name behind n bytes of arguments and returns the length of both.
func nameArgs(s *frontend.Slot, n int, name string) int {
	b := s.Args()
	k := n + copy(b[n:len(b)-1], name)
	b[k] = 0
	return k + 1
}

func getattr(s *frontend.Slot, node uint64) {
	request(s, fp.OpGetattr, node, 0, 0)
	*frontend.ArgsOf[fp.GetattrIn](s) = fp.GetattrIn{}
}

func lookup(s *frontend.Slot, dir uint64, name string) {
	n := nameArgs(s, 0, name)
	request(s, fp.OpLookup, dir, n, 0)
}

func forget(s *frontend.Slot, node, n uint64) {
	request(s, fp.OpForget, node, 0, 0)
	frontend.ArgsOf[fp.ForgetIn](s).NLookup = n
}

func open(s *frontend.Slot, node uint64, flags uint32) {
	request(s, fp.OpOpen, node, 0, 0)
	*frontend.ArgsOf[fp.OpenIn](s) = fp.OpenIn{Flags: flags}
}

func release(s *frontend.Slot, node, fh uint64, flags uint32) {
	request(s, fp.OpRelease, node, 0, 0)
	*frontend.ArgsOf[fp.ReleaseIn](s) = fp.ReleaseIn{Fh: fh, Flags: flags}
}

func read(s *frontend.Slot, node, fh uint64, off int64, size int) {
	request(s, fp.OpRead, node, 0, size)
	*frontend.ArgsOf[fp.ReadIn](s) = fp.ReadIn{Fh: fh, Offset: uint64(off), Size: uint32(size)}
}

func write(s *frontend.Slot, node, fh uint64, off int64, size int) {
	request(s, fp.OpWrite, node, 0, size)
	*frontend.ArgsOf[fp.WriteIn](s) = fp.WriteIn{Fh: fh, Offset: uint64(off), Size: uint32(size)}
}

// replied checks that a reply is no error and has a body of n bytes.
func replied(s *frontend.Slot, n int) error {
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", fp.Opcode(s.Header().Opcode), err)
	}
	if got := s.Written() - fp.Size[fp.OutHeader](); got != n {
		return fmt.Errorf("%s: reply of %d bytes, want %d", fp.Opcode(s.Header().Opcode), got, n)
	}
	return nil
}

// entry takes the node of a LOOKUP, CREATE or MKDIR.
func entry(s *frontend.Slot, n int) (uint64, error) {
	if err := replied(s, n); err != nil {
		return 0, err
	}
	return frontend.ReplyOf[fp.EntryOut](s).NodeID, nil
}
