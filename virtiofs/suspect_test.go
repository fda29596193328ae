package virtiofs

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// dieAt is a worker's death when it comes to a point for the first time.
func dieAt(at faultPoint) (die func(faultPoint) bool, died chan struct{}) {
	died = make(chan struct{})
	return func(p faultPoint) bool {
		if p == at {
			close(died)
		}
		return p == at
	}, died
}

func (x *lives) await(what string, c <-chan struct{}) {
	x.t.Helper()
	within(x.t, what, func() { <-c })
}

// died fails unless the deaths are those of a process that has ended by itself.
func died(t *takeover) { t.most = fuse.MostDied }

// TestWaitAcrossDeaths: a request that waits for another client waits on, however many processes
// die meanwhile, and is not taken for their cause.
func TestWaitAcrossDeaths(t *testing.T) {
	x := newLives(t, 0)
	within(t, "stop", x.w.stop)
	x.write(9, fp.OpSetlkw, 0)
	for range 20 {
		die, dead := dieAt(faultPublished)
		waits := x.h.waits.Load()
		x.next(0, died, die)
		for x.h.waits.Load() == waits {
			time.Sleep(50 * time.Microsecond)
		}
		x.write(1, fp.OpWrite, 3)
		x.notify()
		x.await("the worker's death", dead)
		if slot := x.take(0); slot != 1 {
			t.Fatalf("slot %d is answered", slot)
		}
	}
	x.next(0, died, nil)
	x.await("the takeover", x.serves)
	close(x.h.goOn)
	if slot := x.take(0); slot != 9 {
		t.Errorf("slot %d is answered", slot)
	}
	x.done()
}

// TestPoison: a request of which three processes die is answered EIO and logged; all others
// are answered, whether they came before it or after.
func TestPoison(t *testing.T) {
	x := newLives(t, 0)
	within(t, "stop", x.w.stop)
	var dead chan struct{}
	x.h.poison = func(m *fuse.Message) {
		if fp.Opcode(m.Header.Opcode) == fp.OpIoctl {
			close(dead)
			select {}
		}
	}
	for slot := range 6 {
		op := fp.OpWrite
		if slot == 3 {
			op = fp.OpIoctl
		}
		x.write(slot, op, 1)
	}
	x.adds-- // that of the IOCTL
	for range fuse.MostDied {
		dead = make(chan struct{})
		x.next(0, died, nil)
		x.await("the worker's death", dead)
	}
	x.next(0, died, nil)
	x.await("the takeover", x.serves)
	for range 6 {
		slot := x.wait()
		errno, _ := x.reply(slot)
		if want := map[bool]unix.Errno{true: unix.EIO}[slot == 3]; errno != want {
			t.Errorf("slot %d: %v, want %v", slot, errno, want)
		}
		delete(x.sent, slot)
	}
	x.done()
	request := x.Mem[slotAt(x.ring, 3):][:48]
	if log := x.log.String(); !strings.Contains(log, hex.EncodeToString(request)) || !strings.Contains(log, "IOCTL") {
		t.Errorf("the log has no bytes of the request: %s", log)
	}
}

// dieBeside is a life that ends while n requests wait.
func (x *lives) dieBeside(n int64) {
	x.t.Helper()
	die, dead := dieAt(faultPublished)
	waits := x.h.waits.Load()
	x.next(0, died, die)
	for x.h.waits.Load() < waits+n {
		time.Sleep(50 * time.Microsecond)
	}
	x.write(9, fp.OpWrite, 1)
	x.notify()
	x.await("the worker's death", dead)
	x.take(0)
}

// TestSuspectApart: requests that were under way in two deaths are served one at a time, and new
// ones after them. One that does not end holds the others up for a while only.
func TestSuspectApart(t *testing.T) {
	x := newLives(t, 0)
	within(t, "stop", x.w.stop)
	for slot := range 3 {
		x.write(slot, fp.OpFsync, 0)
	}
	x.dieBeside(3)
	x.dieBeside(3)
	waits := x.h.waits.Load()
	x.write(9, fp.OpWrite, 1)
	x.next(0, died, nil)
	x.await("the takeover", x.serves)
	if slot := x.take(0); slot != 9 { // the FSYNC apart does not end
		t.Fatalf("slot %d is answered", slot)
	}
	if n := x.h.waits.Load() - waits; n != 1 {
		t.Errorf("%d suspects are served at the same time", n)
	}
	for slot := range 3 {
		x.h.goOn <- struct{}{}
		if got := x.take(0); got != slot {
			t.Errorf("slot %d is answered, want %d", got, slot)
		}
	}
	x.done()
}

// TestSuspectStop: a queue that is stopped ends with all that it has to take over.
func TestSuspectStop(t *testing.T) {
	x := newLives(t, 0)
	within(t, "stop", x.w.stop)
	x.write(0, fp.OpFsync, 0)
	x.write(1, fp.OpFsync, 0)
	x.dieBeside(2)
	x.dieBeside(2)
	x.next(0, died, nil)
	go func() {
		for range 2 {
			x.h.goOn <- struct{}{}
		}
	}()
	x.take(0)
	x.take(0)
	x.done()
}

// TestGuestChanges: a guest that changes a chain while nobody serves it gets EIO for this
// request, and all others are answered.
func TestGuestChanges(t *testing.T) {
	changes := map[string]func(x *lives, slot int){
		"unique": func(x *lives, slot int) { x.Mem[slotAt(x.ring, slot)+8]++ },
		"opcode": func(x *lives, slot int) { x.Mem[slotAt(x.ring, slot)+4]++ },
		"loop":   func(x *lives, slot int) { x.Set(2*slot+1, x.desc(slot, uint16(2*slot))) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			x := newLives(t, 0)
			within(t, "stop", x.w.stop)
			for slot := range 4 {
				x.write(slot, fp.OpWrite, 1)
			}
			die, dead := dieAt(faultNoted)
			x.next(0, died, die) // at slot 0
			x.await("the worker's death", dead)
			change(x, 0)
			x.adds--
			x.next(0, died, nil)
			for range 4 {
				slot := x.wait()
				delete(x.sent, slot)
				errno, _ := x.reply(slot)
				if slot != 0 && errno != 0 || slot == 0 && name != "loop" && errno != unix.EIO {
					t.Errorf("slot %d: %v", slot, errno)
				}
			}
			x.done()
		})
	}
}

// TestFailAll: the keeper may ask to answer EIO to all that was under way. What was finished
// is not touched.
func TestFailAll(t *testing.T) {
	x := newLives(t, 0)
	within(t, "stop", x.w.stop)
	x.write(0, fp.OpWrite, 1)
	x.write(1, fp.OpFsync, 0)
	x.write(2, fp.OpWrite, 1)
	n := 0
	dead := make(chan struct{})
	x.next(0, died, func(p faultPoint) bool {
		if p == faultNoted {
			if n++; n == 3 {
				close(dead)
				return true
			}
		}
		return false
	})
	x.await("the worker's death", dead)
	x.adds-- // slot 2
	x.next(0, func(t *takeover) { t.fail = true }, nil)
	x.await("the takeover", x.serves)
	for _, want := range []unix.Errno{0, unix.EIO, unix.EIO} {
		slot := x.wait()
		delete(x.sent, slot)
		if errno, _ := x.reply(slot); errno != want {
			t.Errorf("slot %d: %v, want %v", slot, errno, want)
		}
	}
	x.write(0, fp.OpWrite, 5)
	x.notify()
	x.take(0)
	x.done()
}

// TestHeadTwice: a driver that uses a head for two requests at once harms nobody but itself.
func TestHeadTwice(t *testing.T) {
	x := newLives(t, 0)
	x.write(0, fp.OpFsync, 0)
	x.notify()
	for x.h.waits.Load() < 1 {
		time.Sleep(50 * time.Microsecond)
	}
	x.Offer(0)
	x.offered++
	x.notify()
	for x.h.waits.Load() < 2 {
		time.Sleep(50 * time.Microsecond)
	}
	close(x.h.goOn)
	x.wait()
	x.wait()
	delete(x.sent, 0)
	x.done()
}
