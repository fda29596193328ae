package keeper

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeStore keeps descriptors as a service manager does.
type fakeStore struct {
	t       *testing.T
	mu      sync.Mutex
	kept    map[string]int
	full    bool // takes nothing for now
	settled int
}

func newFakeStore(t *testing.T) *fakeStore {
	s := &fakeStore{t: t, kept: map[string]int{}}
	t.Cleanup(func() {
		for _, fd := range s.kept {
			_ = unix.Close(fd)
		}
	})
	return s
}

func (s *fakeStore) Put(name string, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return unix.EAGAIN
	}
	if _, twice := s.kept[name]; twice {
		s.t.Errorf("%s is stored twice", name)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	s.kept[name] = own
	return err
}

func (s *fakeStore) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return unix.EAGAIN
	}
	if fd, ok := s.kept[name]; ok {
		_ = unix.Close(fd)
	} else {
		s.t.Errorf("%s is removed and was not stored", name)
	}
	delete(s.kept, name)
	return nil
}

func (s *fakeStore) Wait() { time.Sleep(time.Millisecond) }
func (s *fakeStore) Settled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled++
}

func (s *fakeStore) fill(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *fakeStore) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.kept)), " ")
}

// again hands what the store has to a new keeper, as at the next start.
func (s *fakeStore) again(k *Keeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, fd := range s.kept {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = k.Restore(name, own)
		}
		if err != nil {
			s.t.Error(err)
		}
	}
	k.o.Store = s
}

// TestStore: what the keeper holds is stored while it runs, pins when it ends, and the next start has all.
func TestStore(t *testing.T) {
	s := newFakeStore(t)
	r := newRig(t, func(k *Keeper) { k.o.Store = s })
	f := r.serving()
	for _, command := range []string{"keep listener-0-0 l", "keep connection-0-0 c", "keep region-1-0 old", "keep region-1-0 new",
		"keep region-2-0 two", "drop region-2-0", "keep node-5-0 pin", "keep open-6-0 gone", "drop open-6-0"} {
		f.do(command)
	}
	r.until("all but pins are stored", func() bool { return s.names() == "connection-0-0 region-1-0" })
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told || !out.Left || out.State.ExitCode() != StatusParked {
		t.Errorf("%+v", out)
	}
	if got := s.names(); got != "connection-0-0 node-5-0 region-1-0" || s.settled != 1 {
		t.Errorf("stored: %s, settled %d", got, s.settled)
	}

	r = newRig(t, s.again)
	f = r.next()
	f.want("receive", "1 100 false 3")
	f.want("content region-1-0", "new")
	f.want("content node-5-0", "pin")
	f.want("die", "gone") // while it takes over: this is no start that fails
	f = r.serving()
	f.do("drop node-5-0")
	r.until("the pin is removed", func() bool { return s.names() == "connection-0-0 region-1-0" })
	f.do("dropmany connection-0-0")
	f.do("dropmany region-0-0")
	r.until("nothing is stored", func() bool { return s.names() == "" })
	r.signals <- unix.SIGTERM // there is nothing to leave
	if out := r.end(); out.Left || out.State.ExitCode() != 6+int(OrderEnd) {
		t.Errorf("%+v", out)
	}
}

// TestStoreKilled: what was stored until the keeper was killed is enough for the next start.
func TestStoreKilled(t *testing.T) {
	s := newFakeStore(t)
	r := newRig(t, func(k *Keeper) { k.o.Store = s })
	f := r.serving()
	f.do("keep connection-0-0 c")
	for n := range 20 {
		f.do(fmt.Sprintf("keep kick-%d-0 kick %d", n, n))
	}
	r.until("all is stored", func() bool { return strings.Count(s.names(), " ") == 20 })
	second := newFakeStore(t) // a keeper that is killed does nothing any more: the first one goes on
	s.mu.Lock()
	for name, fd := range s.kept {
		if err := second.Put(name, fd); err != nil {
			t.Error(err)
		}
	}
	s.mu.Unlock()
	next := newRig(t, second.again)
	g := next.serving()
	g.want("content kick-19-0", "kick 19")
	for _, r := range []*rig{r, next} {
		r.signals <- unix.SIGTERM
		r.end()
	}
}

// TestStoreEnds: a session that is over leaves nothing behind.
func TestStoreEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Keeper)
		end    func(*rig, *fake)
	}{
		{"ended", func(k *Keeper) { k.o.Ended = func() bool { return true } }, func(_ *rig, f *fake) { f.do("exit 0") }},
		{"quit", nil, func(r *rig, _ *fake) { r.signals <- unix.SIGQUIT }},
		{"gave up", func(k *Keeper) { k.clock.after = at(nil) }, func(r *rig, f *fake) {
			f.do("die")
			for range 2 * maxTakeOver {
				r.next().do("exit 2")
			}
		}},
		{"told and ended at once", func(k *Keeper) { k.o.Ended = func() bool { return true } }, func(r *rig, _ *fake) { r.signals <- unix.SIGTERM }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newFakeStore(t)
			r := newRig(t, func(k *Keeper) {
				k.o.Store = s
				if test.change != nil {
					test.change(k)
				}
			})
			f := r.serving()
			f.do("keep connection-0-0 c")
			f.do("keep node-1-0 pin")
			r.until("it is stored", func() bool { return s.names() == "connection-0-0" })
			test.end(r, f)
			if out := r.end(); out.Left {
				t.Errorf("%+v", out)
			}
			if got := s.names(); got != "" || s.settled != 1 {
				t.Errorf("left: %s, settled %d", got, s.settled)
			}
		})
	}
}

// TestStoreBusy: a store that takes nothing holds up nobody, and gets the last state when it goes on.
func TestStoreBusy(t *testing.T) {
	s := newFakeStore(t)
	s.fill(true)
	r := newRig(t, func(k *Keeper) { k.o.Store = s })
	f := r.serving()
	f.do("keep connection-0-0 c")
	for n := range 50 {
		f.do(fmt.Sprintf("keep region-%d-0 x", n))
		if n != 7 {
			f.do(fmt.Sprintf("drop region-%d-0", n))
		}
	}
	f.do("die")
	f = r.serving()
	f.want("content region-7-0", "x")
	s.fill(false)
	r.until("the last state is stored", func() bool { return s.names() == "connection-0-0 region-7-0" })
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Left {
		t.Errorf("%+v", out)
	}
}

// TestRestoreOthers: names of something else are refused.
func TestRestoreOthers(t *testing.T) {
	k := New(Options{Limit: 10})
	for _, name := range []string{"ledger", "share.socket", "listener-0-0", "region-1"} {
		if err := k.Restore(name, 0); err == nil {
			t.Error(name)
		}
	}
}
