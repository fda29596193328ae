package keeper

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// upgrade is what there is of an upgrade. It belongs to Run's goroutine.
type upgrade struct {
	program  *Program // what workers run; nil is the keeper's program
	before   *Program // what they ran before, until one of the new program has served
	trying   bool     // no worker of program has served yet
	checking bool     // Options.Check runs
	ready    *Program // what is to take over when a worker serves
	next     *Program // what is to take over when the worker has parked
	parking  bool     // the worker was told to park
	again    bool     // another upgrade was asked for meanwhile: the program may be another one by now
}

// checked is what came of Options.Check.
type checked struct {
	program *Program
	err     error
}

// StatusParked is the exit status of a worker that has left everything to a successor, as it was told to.
const StatusParked = 3

const (
	// parkTime is how long a worker may take to park. Then it is killed, and a successor
	// continues all the same.
	parkTime = 5 * time.Second
	// maxTries is how many workers of a new program may die before one has served.
	maxTries = 3
)

var (
	errNoRecovery = errors.New("there is no recovery")
)

// beginUpgrade has the program checked that is to take over.
func (k *Keeper) beginUpgrade() {
	u := &k.upgrade
	switch {
	case !k.o.Recover || k.o.Check == nil:
		k.refuse(errNoRecovery)
		return
	case k.told || k.quit:
		return
	case u.checking || u.ready != nil || u.parking || u.trying:
		u.again = true
		return
	}
	u.again, u.checking = false, true
	go func() {
		p, err := k.o.Check()
		k.events <- event{checked: &checked{p, err}}
	}()
}

func (k *Keeper) refuse(err error) {
	k.log.Error(fmt.Sprintf("no upgrade: %v. Nothing has changed", err))
	k.beginNext()
}

// beginNext begins the upgrade that was asked for during the one that has just ended.
func (k *Keeper) beginNext() {
	if k.upgrade.again {
		k.beginUpgrade()
	}
}

// checked has the worker park, if the program can take over.
func (k *Keeper) checked(c *checked) {
	k.upgrade.checking = false
	if c.err != nil {
		k.refuse(c.err)
		return
	}
	k.upgrade.ready = c.program
	k.park()
}

// park has the worker park if there is a program that is to take over. A worker that does not serve yet
// parks when it does.
func (k *Keeper) park() {
	u := &k.upgrade
	if u.ready == nil || k.worker == nil || !k.worker.serving {
		return
	}
	u.next, u.ready = u.ready, nil
	k.log.Info("upgrade to " + u.next.Version)
	u.parking = true
	go k.worker.order(opPark)
	k.kill = k.clock.after(parkTime)
}

// handedOver starts a worker of the new program after one has parked, or has died meanwhile.
func (k *Keeper) handedOver(w *worker, status syscall.WaitStatus) *Outcome {
	u := &k.upgrade
	u.before, u.program, u.next = u.program, u.next, nil
	u.parking, u.trying = false, true
	n := &note{generation: w.generation, at: k.clock.now(), upgrade: status.Exited() && status.ExitStatus() == StatusParked}
	if n.upgrade {
		n.how = "has made room for an upgrade"
		k.tell("it has made room for another upgrade")
	} else {
		n.how = "has died while it made room for an upgrade (" + describe(status) + ")"
		k.tell("and its successor has died")
	}
	k.notes = append(k.notes, n)
	return k.startNext()
}

// upgraded notes that a worker of the new program serves.
func (k *Keeper) upgraded() {
	u := &k.upgrade
	if !u.trying {
		return
	}
	u.trying = false
	closeProgram(u.before)
	u.before = nil
	k.log.Info("upgraded to " + u.program.Version)
	k.beginNext()
}

// fallBack goes back to the program of before if workers of the new one have died again and again.
func (k *Keeper) fallBack() {
	u := &k.upgrade
	if !u.trying || k.takeOvers+k.killedOvers < maxTries {
		return
	}
	k.log.Error(fmt.Sprintf("upgrade failed: %d workers of %s have died before they served. Going back to the program of before",
		k.takeOvers+k.killedOvers, u.program.Version))
	closeProgram(u.program)
	u.program, u.before, u.trying = u.before, nil, false
	k.takeOvers, k.killedOvers = 0, 0
	k.beginNext()
}

func closeProgram(p *Program) {
	if p != nil {
		_ = p.File.Close()
	}
}
