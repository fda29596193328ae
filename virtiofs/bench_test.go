package virtiofs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// benchFiles is how many files the requests of a workload go round.
const benchFiles = 512

// bench is a worker that is driven by hand, on the benchmark's own thread: what a
// request costs without notifications and other threads.
type bench struct {
	*ring
	w     *worker
	shift *shift
	dir   uint64
	files []uint64
	fh    uint64
}

// newBench is a bench whose requests are noted in a ledger, or not.
func newBench(b testing.TB, noted bool) *bench {
	b.Helper()
	dir := b.TempDir()
	for i := range benchFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%04d", i)), make([]byte, 4096), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	var notes *ledger.Ledger
	if noted {
		notes = newLedger(b)
	}
	fs, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc, Ledger: notes})
	if err != nil {
		b.Fatal(err)
	}
	r := newRing(b)
	s := server.New(fs, server.Options{Log: quiet(), Ledger: notes})
	w, err := newWorker(s, nil, r.vring(), BusyPoll{}, quiet())
	if err != nil {
		b.Fatal(err)
	}
	// The goroutine of a test ends locked to its thread, and the thread, whose working
	// directory is another now, with it.
	sh := &shift{worker: w}
	if sh.thread, err = s.StartThread(fuse.Hooks{}); err != nil {
		b.Fatal(err)
	}
	if noted {
		ring, err := notes.Queue(1, ringSize)
		if err != nil {
			b.Fatal(err)
		}
		w.cells.note(ring, &w.clock)
	}
	x := &bench{ring: r, w: w, shift: sh, dir: fp.RootID}
	b.Cleanup(w.waker.close)
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0)}
	x.one(fp.OpInit, 0, fp.Bytes(&in), 80)
	for i := range benchFiles {
		reply := x.one(fp.OpLookup, x.dir, benchName(i), 128)
		x.files = append(x.files, binary.NativeEndian.Uint64(reply))
	}
	x.fh = binary.NativeEndian.Uint64(x.one(fp.OpOpen, x.files[0], fp.Bytes(&fp.OpenIn{Flags: unix.O_RDWR}), 16))
	return x
}

func benchName(i int) []byte { return fmt.Appendf(nil, "f%04d\x00", i) }

// one serves one request.
func (x *bench) one(op fp.Opcode, node uint64, body []byte, room int) []byte {
	x.t.Helper()
	x.send(0, op, node, body, room)
	x.w.batch(x.shift)
	x.Reap()
	errno, reply := x.reply(0)
	if errno != 0 {
		x.t.Fatalf("%s: %v", op, errno)
	}
	return reply
}

// workload sends the i-th request in a slot, and looks at what the slot has from before.
type workload struct {
	name string
	next func(x *bench, slot, i int)
}

func workloads() []workload {
	getattr := fp.Bytes(&fp.GetattrIn{})
	names := make([][]byte, benchFiles)
	for i := range names {
		names[i] = benchName(i)
	}
	var read fp.ReadIn
	write := make([]byte, fp.Size[fp.WriteIn]()+4096)
	var release fp.ReleaseIn
	open := make([]byte, 8)
	return []workload{
		{"getattr", func(x *bench, slot, i int) {
			x.send(slot, fp.OpGetattr, x.files[i%benchFiles], getattr, 104)
		}},
		{"lookup", func(x *bench, slot, i int) { x.send(slot, fp.OpLookup, x.dir, names[i%benchFiles], 128) }},
		{"read-4k", func(x *bench, slot, i int) {
			read = fp.ReadIn{Fh: x.fh, Size: 4096}
			x.send(slot, fp.OpRead, x.files[0], fp.Bytes(&read), 4096)
		}},
		{"write-4k", func(x *bench, slot, i int) {
			n := copy(write, fp.Bytes(&fp.WriteIn{Fh: x.fh, Size: 4096}))
			x.send(slot, fp.OpWrite, x.files[0], write[:n+4096], 8)
		}},
		{"open+release", func(x *bench, slot, i int) { // in turns, with all slots
			node := x.files[slot]
			if i/slots%2 == 0 {
				x.send(slot, fp.OpOpen, node, open, 16)
				return
			}
			_, reply := x.reply(slot)
			release = fp.ReleaseIn{Fh: binary.NativeEndian.Uint64(reply)}
			x.send(slot, fp.OpRelease, node, fp.Bytes(&release), 0)
		}},
	}
}

// round serves a batch of all slots.
func (x *bench) round(l *workload, i int) {
	for slot := range slots {
		l.next(x, slot, i+slot)
	}
	x.w.batch(x.shift)
	for {
		if _, _, ok := x.Reap(); !ok {
			return
		}
	}
}

// BenchmarkRequest is the time of one request from the available ring to the used ring,
// in batches of 32 and without notifications. Compare with BenchmarkSyscall.
func BenchmarkRequest(b *testing.B) {
	for _, l := range append(workloads(), moreWorkloads()...) {
		for _, noted := range []bool{false, true} {
			name := l.name + "/never"
			if noted {
				name = l.name + "/auto"
			}
			b.Run(name, func(b *testing.B) {
				x := newBench(b, noted)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if i%slots == 0 {
						x.round(&l, i)
					}
					i++
				}
			})
		}
	}
}

// BenchmarkSyscall is what the requests of BenchmarkRequest can't do without.
func BenchmarkSyscall(b *testing.B) {
	file := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(file, make([]byte, 4096), 0o644); err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Open(file, unix.O_RDONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	var st unix.Statx_t
	buf := [][]byte{make([]byte, 4096)}
	b.Run("getattr", func(b *testing.B) {
		for b.Loop() {
			_ = unix.Statx(fd, "", unix.AT_EMPTY_PATH, mask, &st)
		}
	})
	b.Run("read-4k", func(b *testing.B) {
		for b.Loop() {
			_, _ = unix.Preadv2(fd, buf, 0, unix.RWF_NOWAIT)
		}
	})
}

// TestRequestAllocations: small requests allocate nothing.
func TestRequestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, noted := range []bool{false, true} {
		x := newBench(t, noted)
		for _, l := range workloads() {
			i := 0
			n := testing.AllocsPerRun(50, func() { x.round(&l, i); i += slots })
			if n != 0 {
				t.Errorf("%s, noted %v: %.2f allocations a request", l.name, noted, n/slots)
			}
		}
	}
}

// BenchmarkCells is what noting costs each request, publications in batches included.
func BenchmarkCells(b *testing.B) {
	ring, err := newLedger(b).Queue(1, ringSize)
	if err != nil {
		b.Fatal(err)
	}
	var c cells
	by := newClock()
	c.note(ring, &by)
	m := fuse.Message{Header: fp.InHeader{Opcode: uint32(fp.OpGetattr), NodeID: 1}}
	b.ReportAllocs()
	i := uint16(0)
	for b.Loop() {
		m.Header.Unique++
		cell := c.take(&m, i%ringSize, i)
		i++
		if c.done(cell, 120, i); i%flushRequests == 0 {
			c.published()
		}
	}
}
