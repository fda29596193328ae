package keeper

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upgrading is a rig whose upgrades find programs with these names, one after the other. The empty name is
// a program that can't take over.
func upgrading(t *testing.T, names ...string) *rig {
	t.Helper()
	return newRig(t, func(k *Keeper) {
		k.clock.after = func(d time.Duration) <-chan time.Time {
			if d == parkTime {
				return nil
			}
			return at(nil)(d)
		}
		k.o.Check = func() (*Program, error) {
			name := names[0]
			names = names[1:]
			if name == "" {
				return nil, errors.New("it is broken")
			}
			f, err := os.Open("/proc/self/exe")
			return &Program{File: f, Version: name}, err
		}
	})
}

func (f *fake) version() string {
	if f.launch.Program == nil {
		return ""
	}
	return f.launch.Program.Version
}

// TestUpgrade: the worker parks, and one of the new program takes over what it had.
func TestUpgrade(t *testing.T) {
	r := upgrading(t, "two", "", "three")
	f := r.serving()
	f.do("keep node-1-0 x")
	before := openFiles(t)
	r.signals <- unix.SIGUSR2
	f = r.serving()
	if f.version() != "two" {
		t.Errorf("%q", f.version())
	}
	f.want("content node-1-0", "x")
	f.do("replied")
	r.until("the log says how", func() bool {
		return r.log.count(`level=INFO msg="worker 1 has made room for an upgrade; worker 2 serves after `) == 1 &&
			r.log.count(" after the old worker's end") == 1
	})
	r.signals <- unix.SIGUSR2 // refused
	r.until("it is refused", func() bool { return r.log.count("no upgrade: it is broken. Nothing has changed") == 1 })
	f.want("content node-2-0", "none") // it serves on
	r.signals <- unix.SIGUSR2
	f = r.serving()
	if f.version() != "three" {
		t.Errorf("%q", f.version())
	}
	f.do("die") // recovery is by the new program
	f = r.serving()
	if f.version() != "three" || f.launch.Generation != 4 {
		t.Errorf("%q", f.version())
	}
	f.want("content node-1-0", "x")
	r.until("the file of the second program is closed", func() bool { return openFiles(t) <= before+8 })
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told {
		t.Errorf("%+v", out)
	}
}

// TestUpgradeTwice: an upgrade that is asked for during another one follows it, since the program may
// have been replaced meanwhile. Asked for twice, it is one.
func TestUpgradeTwice(t *testing.T) {
	r := upgrading(t, "two", "three")
	r.serving()
	r.signals <- unix.SIGUSR2
	f := r.next() // it does not serve yet
	r.signals <- unix.SIGUSR2
	r.signals <- unix.SIGUSR2
	f.do("receive")
	f.do("serving")
	if f = r.serving(); f.version() != "three" || f.launch.Generation != 3 {
		t.Errorf("%q is worker %d", f.version(), f.launch.Generation)
	}
	// Nothing has died.
	if r.log.count("; it has made room for another upgrade") != 1 || r.log.count("has died") != 0 || r.log.count("level=WARN") != 0 {
		t.Error(r.log)
	}
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told {
		t.Errorf("%+v", out)
	}
}

// TestUpgradeFails: after three workers of the new program have died, those of the old one go on.
func TestUpgradeFails(t *testing.T) {
	r := upgrading(t, "two", "three")
	f := r.serving()
	f.do("keep node-1-0 x")
	for _, version := range []string{"two", "three"} {
		r.signals <- unix.SIGUSR2
		for range maxTries {
			f = r.next()
			if f.version() != version {
				t.Errorf("%q, want %q", f.version(), version)
			}
			f.do("die")
		}
		f = r.serving()
		if f.version() != "" {
			t.Errorf("%q after a failure", f.version())
		}
		f.want("content node-1-0", "x")
	}
	if r.log.count("upgrade failed: 3 workers of two have died") != 1 {
		t.Error(r.log)
	}
	r.signals <- unix.SIGTERM
	r.end()
}

// TestUpgradeCrash: a worker that is killed, or that does not park, is followed by the new program, too.
func TestUpgradeCrash(t *testing.T) {
	r := upgrading(t, "two")
	f := r.serving()
	f.do("quiet")
	r.signals <- unix.SIGUSR2
	r.until("it is parking", func() bool { return r.log.count("upgrade to two") == 1 })
	f.do("die")
	if f = r.serving(); f.version() != "two" {
		t.Errorf("%q", f.version())
	}
	f.do("replied")
	r.until("the log says how", func() bool {
		return r.log.count(`level=WARN msg="worker 1 has died while it made room for an upgrade (signal: killed); worker 2 serves`) == 1 &&
			r.log.count(" after the death") == 1
	})
	r.signals <- unix.SIGTERM
	r.end()

	r = upgrading(t, "two")
	late := make(chan time.Time, 1)
	f = r.next()
	r.signals <- unix.SIGUSR2 // nobody serves yet: it waits
	f.do("receive")
	f.do("serving")
	if f = r.serving(); f.version() != "two" {
		t.Errorf("%q", f.version())
	}
	r.signals <- unix.SIGTERM
	r.end()

	r = newRig(t, func(k *Keeper) {
		k.clock.after = func(d time.Duration) <-chan time.Time {
			if d == parkTime {
				return late
			}
			return at(nil)(d)
		}
		k.o.Check = func() (*Program, error) {
			f, err := os.Open("/proc/self/exe")
			return &Program{File: f, Version: "two"}, err
		}
	})
	f = r.serving()
	f.do("quiet")
	r.signals <- unix.SIGUSR2
	late <- time.Time{}
	if f = r.serving(); f.version() != "two" {
		t.Errorf("%q", f.version())
	}
	r.signals <- unix.SIGTERM
	r.end()
}

// TestUpgradeRefused: where there can't be an upgrade.
func TestUpgradeRefused(t *testing.T) {
	for _, test := range []struct {
		change func(*Keeper)
		says   error
	}{
		{func(k *Keeper) { k.o.Recover = false }, errNoRecovery},
		{func(k *Keeper) { k.o.Check = nil }, errNoRecovery},
	} {
		r := newRig(t, func(k *Keeper) {
			k.o.Check = func() (*Program, error) {
				f, err := os.Open("/proc/self/exe")
				return &Program{File: f, Version: "two"}, err
			}
			test.change(k)
		})
		f := r.serving()
		f.do("keep connection-0-0 x")
		r.until("the connection is held", func() bool { return r.k.table.has(Connection()) || !r.k.o.Recover })
		r.signals <- unix.SIGUSR2
		r.until("it is refused", func() bool { return r.log.count("no upgrade: "+test.says.Error()) == 1 })
		f.do("content node-1-0")
		r.signals <- unix.SIGTERM
		if out := r.end(); !out.Told {
			t.Errorf("%+v", out)
		}
	}
}
