package keeper

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKeepThenKilled: what was handed up in the last moment counts, and what was dropped is gone.
func TestKeepThenKilled(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	f := r.serving()
	f.do("keep node-1-0 one")
	f.do("keep node-2-0 two")
	f.do("keep node-1-0 other")
	f.do("drop node-2-0")
	for n := 3; n < 40; n++ {
		f.want(fmt.Sprintf("keepdie open-%d-0 file %d", n, n), "gone")
		f = r.next()
		f.want("receive", fmt.Sprintf("%d 100 false %d", n-1, n-1))
		f.want("content node-1-0", "other")
		f.want("content node-2-0", "none")
		f.want(fmt.Sprintf("content open-%d-0", n), fmt.Sprintf("file %d", n))
		f.do("serving")
	}
	f.do("exit 0")
	f = r.serving() // an end without Ended is a crash
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told || !out.Served || f == nil {
		t.Errorf("%+v", out)
	}
}

// TestKilledAtEachStep kills workers at each step of what keeper and worker say to each other. All that was
// handed up is there each time.
func TestKilledAtEachStep(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	f := r.serving()
	for n := range 5 {
		f.do(fmt.Sprintf("keep region-%d-0 memory %d", n, n))
	}
	steps := []string{"read", "read", "read", "read", "read", "receive", "serving", "keep kick-1-0 x", "drop kick-1-0", "replied"}
	for step := range steps {
		f.want("die", "gone")
		f = r.next()
		for _, command := range steps[:step] {
			f.do(command)
		}
		f.want("die", "gone")
		f = r.next()
		f.do("receive")
		for n := range 5 {
			f.want(fmt.Sprintf("content region-%d-0", n), fmt.Sprintf("memory %d", n))
		}
		f.want("content kick-1-0", map[bool]string{true: "x", false: "none"}[step == 8])
		f.do("drop kick-1-0")
		f.do("serving")
	}
	r.signals <- unix.SIGTERM
	r.end()
}

// at is a clock whose timers end at once; delays that are not those of taking over or the log are
// noted.
func at(delays *[]time.Duration) func(time.Duration) <-chan time.Time {
	return func(d time.Duration) <-chan time.Time {
		c := make(chan time.Time, 1)
		switch d {
		case takeOverTime, time.Second: // also what EndGrace is in tests
			return c
		}
		if delays != nil {
			*delays = append(*delays, d)
		}
		c <- time.Time{}
		return c
	}
}

// TestGenerations: after many generations there is no more of anything than after a few.
func TestGenerations(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	f := r.serving()
	f.do("keep connection-0-0 c")
	level := func() [2]int {
		var n [2]int
		for range 3 {
			f.do("keep open-7-0 file")
			f.want("die", "gone")
			f = r.serving()
			f.do("drop open-7-0")
		}
		f.do("keep open-7-0 file")
		r.until("the pin", func() bool { return r.k.table.has(Open(7)) })
		runtime.GC() // closes what tests have forgotten to close
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n[0], n[1] = len(files), runtime.NumGoroutine()
		return n
	}
	before := level()
	generations := 300
	if testing.Short() {
		generations = 30
	}
	for range generations {
		f.do("die")
		f = r.serving()
	}
	r.until("the level of before", func() bool {
		now := level()
		if now[0] <= before[0] && now[1] <= before[1] {
			return true
		}
		t.Logf("files, goroutines: %d, before %d", now, before)
		return false
	})
	if n := r.log.count("has died"); n < generations {
		t.Errorf("%d lines for %d deaths", n, generations)
	}
	r.signals <- unix.SIGTERM
	r.end()
}

// TestDelays: a worker that dies again and again is started later and later, and at once when one has served
// for a while.
func TestDelays(t *testing.T) {
	var delays []time.Duration
	now := time.Unix(1e9, 0)
	r := newRig(t, func(k *Keeper) {
		k.clock = clock{now: func() time.Time { return now }, after: at(&delays)}
	})
	for range 12 {
		r.serving().do("die")
	}
	r.serving()
	const ms = time.Millisecond
	want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms, 5000 * ms}
	r.signals <- unix.SIGQUIT // Run does not look at the clock any more when it has ended
	if out := r.end(); !out.Quit || out.Told {
		t.Errorf("%+v", out)
	}
	if !reflect.DeepEqual(delays, want) {
		t.Errorf("delays %v, want %v", delays, want)
	}
}

// TestCalm: deaths before a long life do not count.
func TestCalm(t *testing.T) {
	k := New(Options{Start: func(Launch) (*os.Process, error) { return nil, errors.New("not now") }, Log: slog.New(slog.DiscardHandler)})
	now := time.Unix(1e9, 0)
	var delays []time.Duration
	k.clock = clock{now: func() time.Time { return now }, after: func(d time.Duration) <-chan time.Time {
		delays = append(delays, d)
		return nil
	}}
	k.deaths = 20
	k.replace(&worker{serving: true, since: now.Add(-calm + 1)}, "killed")
	k.deaths = 20
	k.replace(&worker{serving: true, since: now.Add(-calm)}, "killed") // and then it can't be started
	if want := []time.Duration{maxDelay, firstDelay}; !reflect.DeepEqual(delays, want) {
		t.Errorf("delays %v, want %v", delays, want)
	}
}

// TestTakeOver: after three deaths while workers take over, the next ones are told to answer EIO, and after
// three more the keeper gives up, and says so to the front-end.
func TestTakeOver(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	eventfd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(eventfd)
	f := r.serving()
	copied, err := unix.Dup(eventfd)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.k.table.put(Key{Kind: KindErr, ID: 1}, copied); err != nil {
		t.Fatal(err)
	}
	f.do("keep err-2-0 not an eventfd")
	f.want("exit 2", "gone")
	for n := range 2 * maxTakeOver {
		f = r.next()
		f.want("receive", fmt.Sprintf("%d 100 %t 2", n+2, n >= maxTakeOver))
		f.want("content err-2-0", "not an eventfd")
		f.want("exit 2", "gone")
	}
	out := r.end()
	if !errors.Is(out.Err, ErrGaveUp) || out.State != nil {
		t.Errorf("%+v", out)
	}
	b := make([]byte, 8)
	if n, err := unix.Read(eventfd, b); n != 8 || b[0] != 1 {
		t.Errorf("the error eventfd: %d bytes %v, %v", n, b, err)
	}
	if n := r.log.count("has died"); n != 1+2*maxTakeOver {
		t.Errorf("%d lines for %d deaths", n, 1+2*maxTakeOver)
	}
}

// TestTakeOverKilled: workers that somebody else kills while they take over are replaced for longer.
func TestTakeOverKilled(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	r.serving().do("die")
	for n := range 2 * maxKilledOver {
		f := r.next()
		f.want("receive", fmt.Sprintf("%d 100 %t 0", n+2, n >= maxKilledOver))
		f.want("die", "gone")
	}
	if out := r.end(); !errors.Is(out.Err, ErrGaveUp) {
		t.Errorf("%+v", out)
	}
	// Crashes among them count as always, and one that the keeper has killed because it hung.
	r = newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	r.serving().do("die")
	for range maxTakeOver {
		for range 2 {
			r.next().do("die")
			r.next().do("exit 2")
		}
	}
	if out := r.end(); !errors.Is(out.Err, ErrGaveUp) {
		t.Errorf("%+v", out)
	}
	k := New(Options{Start: func(Launch) (*os.Process, error) { return nil, errors.New("no") }, Log: slog.New(slog.DiscardHandler)})
	k.clock.after = func(time.Duration) <-chan time.Time { return nil }
	k.deaths = freeDeaths + 1
	k.killed, k.hung = true, true
	k.replace(&worker{}, "killed")
	if k.takeOvers != 1 || k.killedOvers != 0 || k.hung {
		t.Errorf("a worker that hung: %d, %d, %v", k.takeOvers, k.killedOvers, k.hung)
	}
}

// TestTakeOverResumes: a worker that serves ends the count.
func TestTakeOverResumes(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	r.serving().do("die")
	for range 3 {
		for range 2*maxTakeOver - 1 {
			r.next().do("exit 2")
		}
		r.serving().do("die")
	}
	f := r.next()
	f.want("receive", "20 100 false 0") // 1 + 3*6 before
	r.signals <- unix.SIGTERM
	r.end()
}

// TestStartFails: a successor that can't be started is tried again, and the first worker is not.
func TestStartFails(t *testing.T) {
	refused := errors.New("no process")
	var fail int
	r := newRig(t, func(k *Keeper) {
		start := k.o.Start
		k.clock.after = at(nil)
		k.o.Start = func(l Launch) (*os.Process, error) {
			if l.Generation > 1 && l.Generation < 4 {
				fail++
				return nil, refused
			}
			return start(l)
		}
	})
	r.serving().do("die")
	f := r.next()
	f.want("receive", "4 100 false 0")
	r.signals <- unix.SIGTERM
	if out := r.end(); fail != 2 || !out.Told || out.Served {
		t.Errorf("%d, %+v", fail, out)
	}
	k := New(Options{Start: func(Launch) (*os.Process, error) { return nil, refused }})
	if out := k.Run(nil); !errors.Is(out.Err, refused) {
		t.Errorf("%+v", out)
	}
}

// TestNotReplaced: workers whose end is the keeper's.
func TestNotReplaced(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Keeper)
		do     func(r *rig)
		status int
	}{
		{"ended", func(k *Keeper) { k.o.Ended = func() bool { return true } }, func(r *rig) { r.serving().do("exit 3") }, 3},
		{"not served yet", nil, func(r *rig) { r.next().do("exit 4") }, 4},
		{"killed before", nil, func(r *rig) { r.next().do("die") }, -1},
		{"no recovery", func(k *Keeper) { k.o.Recover = false }, func(r *rig) { r.serving().do("exit 5") }, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, test.change)
			test.do(r)
			out := r.end()
			if out.State == nil || out.State.ExitCode() != test.status || out.Told || out.Err != nil {
				t.Errorf("%+v", out)
			}
		})
	}
}

// TestTold: a worker that was told to end is not replaced, however it ends, and killed if it does not.
func TestTold(t *testing.T) {
	r := newRig(t, nil)
	r.serving()
	r.signals <- unix.SIGHUP
	if out := r.end(); !out.Told || out.State == nil || out.State.ExitCode() != 7 {
		t.Errorf("%+v", out)
	}
	r = newRig(t, func(k *Keeper) { k.o.EndGrace = time.Nanosecond })
	f := r.serving()
	f.do("quiet")
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told || out.State.String() != "signal: killed" {
		t.Errorf("%+v", out)
	}
	// Between two workers there is nobody to wait for.
	waits := make(chan bool, 1)
	r = newRig(t, func(k *Keeper) {
		k.clock.after = func(d time.Duration) <-chan time.Time {
			if d == firstDelay {
				waits <- true
			}
			return nil
		}
	})
	for range freeDeaths + 1 {
		r.serving().do("die")
	}
	<-waits
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told || out.Served {
		t.Errorf("%+v", out)
	}
}

// TestReady: what the service manager hears.
func TestReady(t *testing.T) {
	var said []string
	r := newRig(t, func(k *Keeper) {
		k.o.Ready = func() { said = append(said, "ready") }
		k.o.Stopping = func() { said = append(said, "stopping") }
	})
	for range 3 {
		r.serving().do("die")
	}
	f := r.serving()
	f.do("replied")
	r.until("all deaths in the log", func() bool { return r.log.count("first reply") == 1 })
	r.signals <- unix.SIGINT
	r.end()
	if got := strings.Join(said, " "); got != "ready stopping" {
		t.Errorf("said %q", got)
	}
	if r.log.count("worker 3 has died (signal: killed); worker 4 serves after") != 1 ||
		r.log.count("with these descriptors: nothing; first reply") != 1 {
		t.Error(r.log.String())
	}
}

// TestNoRecovery: without recovery the worker alone has the descriptors.
func TestNoRecovery(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	r := newRig(t, func(k *Keeper) {
		k.o.Recover = false
		if err := k.Hold(Listener(), fds[1]); err != nil {
			t.Fatal(err)
		}
	})
	f := r.serving()
	f.do("keep node-1-0 x")
	r.until("nothing is held", func() bool { return len(r.k.table.keys()) == 0 })
	f.do("die")
	if n, err := unix.Read(fds[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("%d, %v: the socket is still open", n, err)
	}
	r.end()
}
