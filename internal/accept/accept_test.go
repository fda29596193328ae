package accept

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNext: what is missing for a while is waited for, and told once; other errors end the wait.
func TestNext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	script := func(list ...error) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			if len(list) == 0 {
				return a, nil
			}
			err := list[0]
			list = list[1:]
			return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
		}
	}
	var told []error
	warn := func(err error) { told = append(told, err) }
	c, err := Next(t.Context(), script(unix.EMFILE, unix.ENFILE, unix.ENOMEM), warn)
	if c != a || err != nil || len(told) != 1 || !errors.Is(told[0], unix.EMFILE) {
		t.Errorf("after three failures: %v, %v, told %v", c, err, told)
	}
	if c, err := Next(t.Context(), script(unix.ENOBUFS, net.ErrClosed), nil); c != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v, %v", c, err)
	}
}

// TestNextEnds: a connection that comes at the end is closed.
func TestNextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	end := errors.New("the end")
	a, b := net.Pipe()
	c, err := Next(ctx, func() (net.Conn, error) { cancel(end); return a, nil }, nil)
	if c != nil || !errors.Is(err, end) {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := b.Write([]byte{1}); err == nil {
		t.Error("the connection is open")
	}
}
