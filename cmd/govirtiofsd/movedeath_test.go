package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// reader reads random parts of a file, and knows what is in it.
type reader struct {
	c       *frontend.Client
	node    uint64
	fh      uint64
	content []byte
	served  *atomic.Int64
}

func (r *reader) run(seed uint64, stop *atomic.Bool) error {
	random := rand.New(rand.NewPCG(seed, 5))
	for !stop.Load() {
		at := random.IntN(len(r.content))
		size := 1 + random.IntN(64<<10)
		want := r.content[at:min(at+size, len(r.content))]
		if got, err := r.c.Read(r.node, r.fh, uint64(at), size); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("read of %d bytes at %d: %d bytes, %w", size, at, len(got), err)
		}
		r.served.Add(1)
	}
	return nil
}

// TestIntegrationDeathLog kills workers while a VMM copies the guest's memory by the dirty log, as in a
// migration, and the guest reads files. Whenever the queues are stopped the copy has all that the
// daemon has written.
func TestIntegrationDeathLog(t *testing.T) {
	guest.NeedRoot(t)
	rounds, seed := howOften(12, 200), randomSeed(t)
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	content := make([]byte, 3<<20)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	if err := os.WriteFile(filepath.Join(share, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+socket)
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: 2, Data: 64 << 10, Slots: 8})
	if err != nil {
		t.Fatal(err)
	}
	c := handshake(t, f)
	e, err := c.Lookup(1, "file")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := c.Open(e.NodeID, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	log, err := f.StartLog()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	there := &copied{f: f, log: log, memory: bytes.Clone(f.Memory())}
	var stop atomic.Bool
	var served atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		r := &reader{c: c, node: e.NodeID, fh: fh, content: content, served: &served}
		wg.Go(func() { errs[i] = r.run(seed+uint64(i), &stop) })
	}
	last := 0
	for range rounds {
		before := served.Load()
		for end := time.Now().Add(60 * time.Second); served.Load() < before+20 && time.Now().Before(end); {
			there.collect()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		if pid := killServing(t, d.cmd.Process.Pid, last); pid != 0 {
			last = pid
		}
		if err := f.Stop(); err != nil {
			t.Fatal(err)
		}
		if there.differs(t) {
			break
		}
		if err := f.Start(); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	if t.Failed() {
		_ = f.Start()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if err := log.Stop(); err != nil {
		t.Error(err)
	}
	c.Close()
	d.wantStatus(exitOK)
	t.Logf("%d reads, %d pages copied", served.Load(), there.pages)
}

// copied is the guest's memory on the host that it moves to.
type copied struct {
	f      *frontend.Frontend
	log    *frontend.DirtyLog
	memory []byte
	pages  int
}

// collect copies what was marked.
func (c *copied) collect() {
	c.log.Collect(func(offset int, page []byte) {
		copy(c.memory[offset:], page)
		c.pages++
	})
}

// differs reports whether the copy lacks something. The queues are stopped.
func (c *copied) differs(t *testing.T) bool {
	t.Helper()
	c.collect()
	there := c.memory
	for _, r := range c.f.DeviceMemory() {
		if a, b := c.f.Memory()[r.At:r.At+r.Len], there[r.At:r.At+r.Len]; !bytes.Equal(a, b) {
			first := 0
			for a[first] == b[first] {
				first++
			}
			t.Errorf("memory at offset %#x (range %#x) was written and is not in the log", r.At+first, r.At)
			return true
		}
	}
	return false
}

// TestIntegrationDeathMove kills the worker while a guest's state is being sent, on both hosts. The
// transfer fails, and the next one succeeds.
func TestIntegrationDeathMove(t *testing.T) {
	guest.NeedRoot(t)
	const files = 3000 // the state is more than a pipe takes
	dir := tempDir(t)
	share := filepath.Join(dir, "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(share, fmt.Sprintf("a file with a long name %d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	here := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+dir+"/here")
	here.waitLine(waitingLine)
	c := connect(t, dir+"/here")
	nodes := make([]uint64, files)
	for i := range files {
		e, err := c.Lookup(1, fmt.Sprintf("a file with a long name %d", i))
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = e.NodeID
	}
	fh, err := c.Open(nodes[7], unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	interruptTransfer(t, here, c.Frontend, vhostuser.TransferSave, nil)
	state, err := c.SaveState()
	if err != nil {
		t.Fatalf("the second transfer: %v", err)
	}

	there := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+dir+"/there")
	there.waitLine(waitingLine)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: dir + "/there", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := frontend.Connect(conn, frontend.Options{Queues: 3})
	if err != nil {
		t.Fatal(err)
	}
	interruptTransfer(t, there, f, vhostuser.TransferLoad, state)
	if err := f.LoadState(state); err != nil {
		t.Fatalf("the second transfer: %v", err)
	}
	c.Close()
	here.wantStatus(exitOK)
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	c = frontend.NewClient(f)
	if n, err := c.Write(nodes[7], fh, 0, []byte("here")); n != 4 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	for i := range files {
		if _, err := c.Getattr(nodes[i]); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	c.Close()
	there.wantStatus(exitOK)
}

// interruptTransfer begins a transfer of the state, kills the worker in the middle of it, and wants it to
// fail.
func interruptTransfer(t *testing.T, d *daemon, f *frontend.Frontend, direction uint32, state []byte) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	theirs, ours := w, r
	if direction == vhostuser.TransferLoad {
		theirs, ours = r, w
	}
	s := vhostuser.TransferState{Direction: direction, Phase: vhostuser.TransferPhaseStopped}
	answer, err := f.Call(vhostuser.ReqSetDeviceStateFD, vhostuser.Bytes(&s), int(theirs.Fd()))
	if v, ok := vhostuser.Decode[vhostuser.U64](answer); err != nil || !ok || v.Value != vhostuser.TransferNoFD {
		t.Fatalf("SET_DEVICE_STATE_FD: %v, %v", v, err)
	}
	_ = theirs.Close()
	if direction == vhostuser.TransferSave {
		_, err = io.ReadFull(ours, make([]byte, 4096))
	} else {
		_, err = ours.Write(state[:len(state)/2])
	}
	if err != nil {
		t.Fatal(err)
	}
	if killServing(t, d.cmd.Process.Pid, 0) == 0 {
		t.Fatal("there is no worker")
	}
	if direction == vhostuser.TransferSave {
		_, _ = io.Copy(io.Discard, ours) // to its end, which comes with the worker's
	}
	_ = ours.Close()
	answer, err = f.Call(vhostuser.ReqCheckDeviceState, nil)
	if v, ok := vhostuser.Decode[vhostuser.U64](answer); err != nil || !ok || v.Value == 0 {
		t.Fatalf("CHECK_DEVICE_STATE after a death: %v, %v, want a failure", v, err)
	}
}
