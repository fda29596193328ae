package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fdStore is a service manager's store of descriptors (systemd.service(5), FileDescriptorStoreMax=):
// what is in it the next process of the service gets. It implements keeper.Store. Nothing waits
// for the service manager but Wait and Settled, for a limited time.
type fdStore struct{ n *notifier }

// storeEnv says how many descriptors the service manager keeps (systemd 254); the units set it for
// those before.
const storeEnv = "FDSTORE"

// openStore is the store of the service manager that n tells, or nil. It takes the variable out of the
// environment.
func openStore(n *notifier) *fdStore {
	most, _ := strconv.Atoi(os.Getenv(storeEnv))
	_ = os.Unsetenv(storeEnv)
	if n == nil || most == 0 {
		return nil
	}
	return &fdStore{n}
}

// Put implements keeper.Store. FDPOLL=0 has the descriptor kept also when the other side of a
// connection is gone: to notice that is up to the daemon.
func (s *fdStore) Put(name string, fd int) error {
	return s.n.send("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", fd)
}

// Remove implements keeper.Store.
func (s *fdStore) Remove(name string) error {
	return s.n.send("FDSTOREREMOVE=1\nFDNAME="+name, -1)
}

// remove is Remove also for no store.
func (s *fdStore) remove(name string) error {
	if s == nil {
		return nil
	}
	return s.Remove(name)
}

// Limits of the time to wait for a service manager.
const (
	storeWait    = time.Second
	barrierLimit = 5 * time.Second
)

// Wait implements keeper.Store.
func (s *fdStore) Wait() { _ = s.n.poll(storeWait) }

// Settled implements keeper.Store: the service manager closes the descriptor that comes with BARRIER=1
// when it has taken all messages before (sd_notify_barrier(3)).
func (s *fdStore) Settled() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	defer r.Close()
	err = s.n.send("BARRIER=1", int(w.Fd()))
	w.Close()
	if err == nil {
		_ = r.SetReadDeadline(time.Now().Add(barrierLimit))
		_, _ = r.Read(make([]byte, 1))
	}
}

// passed are the descriptors that a service manager has passed to this process (sd_listen_fds(3)).
type passed struct {
	sockets []int          // of the unit's sockets
	stored  map[string]int // of the store, by name
}

// ledgerName is the ledger's name in the store. Other names there are those of package keeper.
const ledgerName = "ledger"

// takePassed takes the descriptors that were passed, and what the environment says of them. known
// reports whether a name is one of the store.
func takePassed(known func(name string) bool) passed {
	p := passed{stored: map[string]int{}}
	n := 0
	if socketsPassed() {
		n, _ = strconv.Atoi(os.Getenv("LISTEN_FDS"))
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		_ = os.Unsetenv(name)
	}
	for i := range n {
		fd := firstPassed + i
		unix.CloseOnExec(fd)
		if i >= len(names) || !known(names[i]) {
			p.sockets = append(p.sockets, fd)
			continue
		}
		if old, twice := p.stored[names[i]]; twice {
			_ = unix.Close(old)
		}
		p.stored[names[i]] = fd
	}
	return p
}

// discard closes what was stored, and has the store close it.
func (p *passed) discard(s *fdStore) {
	for name, fd := range p.stored {
		_ = unix.Close(fd)
		_ = s.remove(name)
	}
	clear(p.stored)
}

// socket is the one socket that a service manager has opened for the daemon.
func (p *passed) socket() (*endpoint, error) {
	if n := len(p.sockets); n != 1 {
		return nil, fmt.Errorf("%d sockets from the service manager: want one for each daemon", n)
	}
	e, err := adoptEndpoint(p.sockets[0])
	if err != nil {
		return nil, fmt.Errorf("socket from the service manager: %w", err)
	}
	return e, nil
}
