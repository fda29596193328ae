package dax

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// The number of steps in a normal run with each kind of front-end. GOVIRTIOFS_DAX_STEPS
// is the total for all kinds instead. GOVIRTIOFS_DAX_SEED repeats a run.
const usualSteps = 3000

func environment(t testing.TB, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// frontends are the kinds of front-end that a daemon may meet.
var frontends = map[string]frontend.WindowOptions{
	"plain":    {},
	"honest":   {HonorFlags: true},
	"qemu":     {MemReg: true},
	"past-end": {PastEnd: true},
}

// TestProperty does random things to files on both sides. It compares the results
// with a model: by FUSE, through the window and on the host.
func TestProperty(t *testing.T) {
	steps := environment(t, "GOVIRTIOFS_DAX_STEPS", usualSteps*uint64(len(frontends))) / uint64(len(frontends))
	for name, opts := range frontends {
		t.Run(name, func(t *testing.T) {
			seed := environment(t, "GOVIRTIOFS_DAX_SEED", uint64(time.Now().UnixNano()))
			t.Logf("GOVIRTIOFS_DAX_SEED=%d", seed)
			w := newWorld(t, openShare(t, opts), rand.New(rand.NewPCG(seed, 0)))
			w.play(int(steps))
		})
	}
}

// play does n steps.
func (w *world) play(n int) {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	start := time.Now()
	for i := range n {
		k := w.r.IntN(total)
		for _, s := range steps {
			if k -= s.weight; k < 0 {
				s.run(w)
				break
			}
		}
		if i%500 == 499 {
			w.checkAll()
			w.sweep()
		}
		if i%2000 == 1999 {
			w.restart()
			w.checkAll()
		}
	}
	w.checkAll()
	w.t.Logf("%d steps in %v: %v", n, time.Since(start).Round(time.Millisecond), w.counts)
}

// restart ends the session in one of several ways, or interrupts it.
func (w *world) restart() {
	kind := w.r.IntN(6)
	name := [...]string{"pause", "unmount", "reset", "reboot", "new channel", "reconnect"}[kind]
	w.note("%s", name)
	w.counts[name]++
	s := w.s
	switch kind {
	case 0: // the VMM stops the guest and starts it again: nothing has changed
		w.must(s.Stop())
		w.must(s.Start())
		return
	case 1: // umount: the device removes the mappings
		w.must(s.Destroy())
		s.waitUnmapped()
	case 2: // the driver resets the device
		w.must(s.Stop())
		s.Window.Reset()
		w.must(s.Send(vu.ReqResetDevice, nil))
		w.must(s.Start())
	case 3: // a VMM without RESET_DEVICE
		w.must(s.Stop())
		s.Window.Reset()
		w.must(s.Start())
	case 4: // only the mappings are lost
		w.must(s.Window.Reconnect())
		w.forgetAll()
		return
	case 5:
		s.reconnect()
	}
	w.forgetAll()
	w.handles = w.handles[:0]
	for _, f := range w.files {
		f.node = 0
	}
	w.must(s.begin())
}

func (w *world) forgetAll() { clear(w.slots) }

// waitUnmapped waits until the device has removed all mappings. The device does this
// after the end of the session, and delays nobody by it.
func (s *share) waitUnmapped() {
	for range 2000 {
		if s.settle(); len(s.Window.Mappings()) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("still mapped after the end of the session: %+v", s.Window.Mappings())
}
