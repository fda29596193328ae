// Package accept takes connections, also while the machine lacks what they need.
package accept

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Pause is how long after a failure that others may have caused somebody tries again.
const Pause = 100 * time.Millisecond

// Next waits for a connection until ctx ends, whose cause is the error then. Something has to close
// the listener at that moment. If there are no descriptors or no memory for a connection, Next tries
// again: all processes share those of the host, and they may be there soon (accept(2)). warn, which
// may be nil, is told the first such error.
func Next[C net.Conn](ctx context.Context, accept func() (C, error), warn func(error)) (C, error) {
	var none C
	for {
		c, err := accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return none, context.Cause(ctx)
		case err == nil:
			return c, nil
		case !lacking(err):
			return none, err
		}
		if warn != nil {
			warn(err)
			warn = nil
		}
		time.Sleep(Pause)
	}
}

// lacking reports whether something is missing that may be there again soon.
func lacking(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}
