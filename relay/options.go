package relay

import (
	"log/slog"
	"time"
)

// MaxData is how many bytes of file data one request to a program has at most. Longer messages on the program's
// socket would need a contiguous block of more than 32 KiB of the kernel's memory each (alloc_skb_with_frags): where memory
// is fragmented, the program's write then fails with ENOBUFS, and its reply is lost.
const MaxData = 64 << 10

// Options are what a relay does beside relaying. The zero value is usable.
type Options struct {
	// Restart starts the program again when it has ended. Requests that only read are repeated then.
	// Without it they and all later ones get EIO.
	Restart bool
	// Timeout is how long a request waits for the program before the client gets ETIMEDOUT; 0 is for ever. The
	// time that a restart takes counts.
	Timeout time.Duration
	// StartTimeout limits how long the program may take to answer INIT; 0 is 10 seconds.
	StartTimeout time.Duration
	// Notified is the most that replies promise (how long a client may use names and attributes without asking)
	// after the program has said for the first time that something has changed by itself; 0 is 1 second.
	Notified time.Duration
	// MaxNodes and MaxFiles limit what a client can have: nodes that it has looked up, and open files and
	// directories. More are refused with ENFILE. 0 is 4,194,304 and 65,536.
	MaxNodes, MaxFiles int
	// Users and Groups translate ids: who has made the request, owners that the client sets, and owners of files; nil translates nothing.
	// Ids in extended attributes (access control lists) stay what they are.
	Users, Groups IDs
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger
}

func (o *Options) complete() {
	if o.StartTimeout == 0 {
		o.StartTimeout = 10 * time.Second
	}
	if o.Notified == 0 {
		o.Notified = time.Second
	}
	if o.MaxNodes == 0 {
		o.MaxNodes = 1 << 22
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 1 << 16
	}
	if o.Users == nil {
		o.Users = noIDs{}
	}
	if o.Groups == nil {
		o.Groups = noIDs{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
}
