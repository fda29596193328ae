package passthrough

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
)

// TestSweepAfterDeath: an open file without a name outlives a death, and also the sweeps of a successor
// in which nobody uses it, until its first use: till then only the node's descriptor leads to it.
func TestSweepAfterDeath(t *testing.T) {
	c := &deathCase{setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)}, target: unlinkStep("f"),
		after: []step{writeStep(of(1), openedBy(2), 0, 0, "more")}}
	dir, b, k := t.TempDir(), newBoard(t), newSafe(t)
	defer b.close()
	c.setup(dir)
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	life := func(steps int, begin func(p *process)) {
		done := make(chan struct{})
		go func() { // its thread ends with it
			defer close(done)
			p, err := startProcess(c, l, dir, k)
			if err != nil {
				t.Error(err)
				return
			}
			begin(p)
			all := *c
			if steps > 0 { // the others are left to a successor
				all.after = nil
			}
			p.serve(&all, b, func(int) {})
		}()
		<-done
	}
	life(1, func(*process) {})
	k.next()
	life(0, func(p *process) {
		for range 3 {
			p.fs.fds.sweep()
		}
		p.fs.fds.makeRoom(func() bool { return false })
	})
	if errno := -int32(binary.NativeEndian.Uint32(b.reply(4)[4:])); errno != 0 {
		t.Errorf("WRITE to the file: %v", unix.Errno(errno))
	}
	if *b.length(4) == 0 {
		t.Error("there is no reply")
	}
}
