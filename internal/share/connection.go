package share

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// MaxRequestQueues is --num-request-queues without a configuration space: the
// front-end then uses as many as it likes.
const MaxRequestQueues = 64

// Connection is how front-ends reach the device.
type Connection struct {
	SocketPath    string
	SocketGroup   string
	FD            int // -1 is none
	KeepListening bool
	RequestQueues int
	ConfigQueues  int // in the configuration space; 0 is RequestQueues
	BusyPoll      virtiofs.BusyPoll
	Vsock         // guests connect over vsock instead
}

func connectionOptions() []Option {
	return append([]Option{
		{
			Name: "socket-path", Arg: "PATH", Complete: CompleteFile, Doctor: true,
			Value: text(func(c *Config) *string { return &c.SocketPath }),
			Help:  "Make a vhost-user socket at PATH, and PATH.pid with the process id.",
			Manual: `Make a listening socket.
If a program has ended and left a socket at this path, the daemon replaces it.
If a program still uses the socket, or if another kind of file is there, the daemon does not start.
Only the daemon's user may connect.
The file
.Ar path Ns Pa .pid
holds the process id.
It is locked while the daemon runs, so that a second daemon for the same socket does not start.
The daemon removes both files at the end, unless another process has replaced them.`,
		},
		{
			Name: "socket-group", Arg: "GROUP", Complete: CompleteGroup,
			Value:  text(func(c *Config) *string { return &c.SocketGroup }),
			Help:   "Let this group connect to the socket.",
			Manual: `Let this group connect as well.`,
		},
		{
			Name: "fd", Arg: "N", Default: "-1",
			Value: integer(func(c *Config) *int { return &c.FD }),
			Help:  "Use descriptor N, a listening or a connected socket, instead of a path. Without --socket-path and --fd the daemon uses the socket that a systemd socket unit has opened.",
			Manual: `Use the open descriptor
.Ar n ,
a listening socket or a connected one.
Without this option and
.Fl -socket-path
the daemon uses the socket of the systemd socket unit that has started it.`,
		},
		{
			Name:  "keep-listening",
			Value: on(func(c *Config) *bool { return &c.KeepListening }),
			Help:  "When a front-end disconnects, wait for the next one instead of ending.",
			Manual: `When a front-end has disconnected, wait for the next one.
The next one starts a new session: when a front-end ends, its open files are closed and its locks
are dropped.
A front-end that only loses its connection, and connects again within 10 seconds, continues its session.
This option needs a listening socket.`,
		},
		{
			Name: "num-request-queues", Arg: "N",
			Value: integer(func(c *Config) *int { return &c.RequestQueues }),
			Check: (*Config).checkRequestQueues,
			Help: fmt.Sprintf("How many request queues the front-end may use, 1 to %d. Default %d. The front-end chooses how many of them it uses. With --tag, the configuration space says N, or 1 without this option.",
				virtiofs.MaxRequestQueues, MaxRequestQueues),
			Manual: `How many request queues the front-end may use, 1 to 255.
Without this option the daemon offers 64, and the front-end chooses how many it uses.
The configuration space that
.Fl -tag
adds then says 1.
Linux uses more than one since 6.12.`,
		},
		{
			Name: "busy-poll", Arg: "TIME[,PERCENT]",
			Value: busyPoll(func(c *Config) *virtiofs.BusyPoll { return &c.BusyPoll }),
			Help:  "Let the thread of each queue poll for the next request for up to TIME (50us; microseconds without a unit) before it sleeps, while requests come that fast. It spends at most PERCENT of one CPU on this. Replies come sooner and cost more CPU time. 0: it sleeps at once. Default: the thread polls for a short time, and only when sleeping costs more.",
			Manual: `Let the thread of each request queue poll for the next request for up to
.Ar time
before it sleeps: microseconds, or with a unit
.Pq Li 50 , 50us , 1ms ;
at most 10ms.
A thread that finds no request polls less and less often, so an idle guest costs nothing.
.Ar percent
is the largest part of one CPU that a thread may spend on polling; 100 if it is not given.
While the thread polls, the guest need not notify the daemon.
If there is only one small request at a time, the notification takes most of its time.
Polling is worth its cost if a CPU is free for the daemon beside those of the guest.
.Pp
Without this option a thread measures from time to time how long the next request takes to arrive, once while it
sleeps and once while it polls for at most 50us.
It polls as long as this is faster by a quarter and takes less than 32us.
With 0 it always sleeps at once.`,
		},
	}, vsockOptions()...)
}

// checkConnection checks the ways to reach a front-end. passed says that there is one
// without options.
func (c *Config) checkConnection(set *pflag.FlagSet, passed bool) error {
	if set.Changed("socket") {
		c.Warn("--socket is deprecated: use --socket-path")
		if c.SocketPath == "" {
			c.SocketPath = c.oldSocket
		}
	}
	if err := c.checkStreams(set); err != nil || c.Streams() {
		return err
	}
	byFD := set.Changed("fd")
	switch {
	case byFD && c.SocketPath != "":
		return errors.New("--fd and --socket-path exclude each other")
	case byFD && c.SocketGroup != "":
		return errors.New("--socket-group is for --socket-path: the socket of --fd exists already")
	case byFD && c.FD < 0:
		return fmt.Errorf("--fd %d: want the number of an open socket", c.FD)
	case byFD || c.SocketPath != "":
	case !passed:
		return errors.New("no way to reach a front-end: give --socket-path PATH, --fd N, or --vsock PORT or --vsock-uds PATH for guests with vsock only, or start it with a systemd socket unit")
	case c.SocketGroup != "":
		return errors.New("--socket-group is for --socket-path: use SocketGroup= in the socket unit")
	}
	return nil
}

func (c *Config) checkTag() error {
	if c.Tag == "" || len(c.Tag) > virtiofs.TagSize || strings.ContainsRune(c.Tag, 0) {
		return fmt.Errorf("--tag %q has %d bytes: want 1 to %d", c.Tag, len(c.Tag), virtiofs.TagSize)
	}
	return nil
}

func (c *Config) checkRequestQueues() error {
	if c.RequestQueues < 1 || c.RequestQueues > virtiofs.MaxRequestQueues {
		return fmt.Errorf("--num-request-queues %d: want 1 to %d", c.RequestQueues, virtiofs.MaxRequestQueues)
	}
	return nil
}

// checkQueues sets the number of queues when the option does not say it.
func (c *Config) checkQueues(set *pflag.FlagSet) error {
	if !set.Changed("num-request-queues") {
		c.RequestQueues, c.ConfigQueues = MaxRequestQueues, 1
	}
	return nil
}
