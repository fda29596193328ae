package keeper

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCrowded: while too many descriptors of the user are on their way in sockets, whoever has sent them, Keep waits for a
// while. It does not fail as if the keeper were gone.
func TestCrowded(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	c := NewClient(fds[1])
	c.start.Limit = 10
	c.patience = 50 * time.Millisecond
	limit := limitFiles(t, 400)
	free := crowd(t, limit)
	if err := c.keepUnprivileged(Node(1)); !errors.Is(err, ErrBusy) {
		t.Fatalf("Keep: %v, want %v", err, ErrBusy)
	}
	c.patience, c.stuck = patient, false
	time.AfterFunc(50*time.Millisecond, free)
	if err := c.keepUnprivileged(Node(1)); err != nil {
		t.Errorf("Keep, when there is room again: %v", err)
	}
}

// limitFiles sets this process's limit for descriptors for the time of the test.
func limitFiles(t *testing.T, n uint64) uint64 {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	n = min(n, old.Cur)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
	return n
}

// crowd has more than n descriptors be on their way until free is called.
func crowd(t *testing.T, n uint64) (free func()) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	const most = 253 // of one message (SCM_MAX_FD)
	rights := unix.UnixRights(slices.Repeat([]int{0}, most)...)
	for i := uint64(0); i <= n; i += most {
		if err := unix.Sendmsg(fds[0], []byte{1}, rights, nil, unix.MSG_DONTWAIT); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	}
}

// keepUnprivileged is Keep by a thread for which the limit holds.
func (c *Client) keepUnprivileged(k Key) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			result <- err
			return
		}
		result <- c.Keep(k, 0)
	}()
	return <-result
}
