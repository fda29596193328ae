package keeper

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStopped: a keeper that takes no messages costs a worker its patience, once. What was dropped meanwhile is
// dropped when the keeper goes on, before what is kept then.
func TestStopped(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	keeper := fds[0]
	defer unix.Close(keeper)
	defer unix.Close(fds[1])
	if err := send(keeper, &message{op: opBegin, words: [3]uint64{1, 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	c := NewClient(fds[1])
	c.patience = 100 * time.Millisecond
	if _, err := c.Receive(patient); err != nil {
		t.Fatal(err)
	}
	if err := c.Keep(Open(1), 0); err != nil {
		t.Fatal(err)
	}
	n := 0
	for err = nil; err == nil; n++ {
		err = c.Keep(Node(uint64(n)), 0)
	}
	if !errors.Is(err, ErrBusy) || n < 100 {
		t.Fatalf("after %d messages: %v", n, err)
	}
	begin := time.Now()
	for range 1000 {
		if err := c.Keep(Open(2), 0); !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		c.Replied()
	}
	c.Drop(Open(1))
	c.Drop(Node(3))
	if d := time.Since(begin); d > c.patience*500 { // each of them would take patience
		t.Errorf("1000 calls take %v", d)
	}
	last := map[Key]op{}
	next := func() op {
		for {
			m, err := receive(keeper, func(fd int) { _ = unix.Close(fd) })
			if errors.Is(err, unix.EAGAIN) {
				if err = wait(keeper, unix.POLLIN, patient); err == nil {
					continue
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.fd >= 0 {
				_ = unix.Close(m.fd)
			}
			last[m.key] = m.op
			return m.op
		}
	}
	for last[Node(3)] != opDrop || last[Open(1)] != opDrop {
		next()
	}
	if err := c.Keep(Open(1), 0); err != nil {
		t.Fatal(err)
	}
	next()
	if last[Open(1)] != opKeep || last[Open(2)] != 0 {
		t.Errorf("%v", last)
	}
}

// TestGone: a keeper that is gone.
func TestGone(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	c := NewClient(fds[1])
	c.start.Limit = 2
	if _, err := c.Receive(time.Millisecond); !errors.Is(err, ErrBusy) {
		t.Errorf("a keeper that says nothing: %v", err)
	}
	if err := c.Keep(Node(1), 0); err != nil {
		t.Error(err)
	}
	_ = unix.Close(fds[0])
	if err := c.Keep(Node(2), 0); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("keep: %v", err)
	}
	c.Drop(Node(1))
	c.Replied()
	if err := c.Serving(); err == nil {
		t.Error("it could say that it serves")
	}
	if _, err := c.Receive(patient); err == nil {
		t.Error("it could take over")
	}
	// What is late is not sent any more when the descriptor's number is another file's.
	sending := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.sending
	}
	for deadline := time.Now().Add(patient); sending(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it sends for ever to a keeper that is gone")
		}
	}
}

// TestNoKeeper: a process without a keeper.
func TestNoKeeper(t *testing.T) {
	var c *Client
	if err := errors.Join(c.Keep(Node(1), 0), c.Serving()); err != nil {
		t.Error(err)
	}
	c.Drop(Node(1))
	c.DropAll(KindNode)
	c.Replied()
	if _, ok := c.Take(Node(1)); ok || c.Kept() != nil {
		t.Error("it has something")
	}
}

func TestKeyNames(t *testing.T) {
	all := []Key{Node(7), Node(7).Of(1), Ledger().Of(255), Listener(), Connection(), {Kind: KindRegion, ID: 1 << 63}, {Kind: KindKick, ID: 0}, {Kind: KindCall, ID: 1}, {Kind: KindErr, ID: 64}, {Kind: KindLog, ID: 1}, {Kind: KindInflight, ID: 2}, {Kind: KindChannel, ID: 3},
		{Kind: KindAnswer, ID: 4}, {Kind: KindOutbox, ID: 5}, Stream(), Accepted(), Node(7), Open(8), Lock(9, ^uint64(0))}
	seen := map[Kind]bool{}
	for _, k := range all {
		seen[k.Kind] = true
		if got, ok := ParseKey(k.String()); !ok || got != k {
			t.Errorf("%s: %v, %t", k, got, ok)
		}
	}
	if len(seen) != int(kinds)-1 {
		t.Errorf("%d kinds of %d", len(seen), kinds-1)
	}
	for _, s := range []string{"", "node", "node-1", "node-1-2-0", "node-1-2-3-4", "node-01-0", "nodes-1-0", "node--1-0", "keeper.Kind(0)-0-0", "share.socket"} {
		if k, ok := ParseKey(s); ok {
			t.Errorf("%q: %v", s, k)
		}
	}
}
