package share

import (
	"errors"
	"fmt"
	"math"

	"github.com/spf13/pflag"
)

// Recovery says what happens when the process that serves dies or does not
// answer.
type Recovery struct {
	Recover        RecoveryMode
	RequestTimeout int // seconds; 0 is none
}

// RecoveryMode says whether another process takes over from one that has died.
type RecoveryMode string

// The modes: a dead process is replaced, or not.
const (
	RecoveryAuto  RecoveryMode = "auto"
	RecoveryNever RecoveryMode = "never"
)

func recoveryOptions() []Option {
	return []Option{
		{
			Name: "recovery", Default: string(RecoveryAuto),
			Value: oneOf(func(c *Config) *RecoveryMode { return &c.Recover }, literally(RecoveryAuto, RecoveryNever)...),
			Help:  "What happens when the serving process dies. auto: another process takes over. never: the daemon ends. Default {default}.",
			Manual: `What happens when the process that serves the share dies because it is killed or has a fault.
.Cm auto
(the default): another process takes over.
The process that was started stays: it holds what the next process needs, and starts that process.
Guests of several shares
.Pq Fl -vsock-share
have to mount again.
.Cm never :
the daemon ends.
With
.Fl -sandbox Ns = Ns Cm chroot
and
.Cm none
the daemon is then one process only.`,
		},
		{
			Name: "request-timeout", Arg: "SECONDS", Default: "0",
			Value: integer(func(c *Config) *int { return &c.RequestTimeout }),
			Check: func(c *Config) error {
				if c.RequestTimeout < 0 || c.RequestTimeout > math.MaxUint16 {
					return fmt.Errorf("--request-timeout=%d: 1 to %d seconds are possible, or 0 for no limit", c.RequestTimeout, math.MaxUint16)
				}
				return nil
			},
			Help: "Let the guest's kernel abort the whole mount when one request takes longer. Programs then get errors instead of hanging, and the guest must mount again. Needs Linux 6.14 in the guest. Default {default}: the guest waits without a limit.",
			Manual: `Let the guest's kernel
.Pq Linux 6.14
abort the mount when the answer to one request takes longer than this many seconds.
This request, all others and all later ones then fail with
.Er ECONNABORTED
or
.Er ENOTCONN .
Open files are lost, and so is data in the guest's page cache that was not written.
The guest must mount the share again.
The kernel checks every 15 seconds: less than 15 counts as 15, and the abort may come up to 15 seconds later.
The time begins when the guest sends the request, so it must be longer than the slowest
.Xr fsync 2
and than any pause of the host.
With 0 (the default) the guest waits without a limit.
This is better, unless somebody monitors the guest and mounts the share again.
Not possible with
.Fl -locks Ns = Ns Cm host :
a program that waits for a lock would abort the mount.`,
		},
	}
}

// checkRecovery checks the options for requests that take long.
func (c *Config) checkRecovery(*pflag.FlagSet) error {
	if c.RequestTimeout > 0 && (c.PosixLocks() || c.Flocks()) && !c.Immutable {
		return errors.New("--request-timeout and --locks=host exclude each other: " +
			"a program that waits for a lock would have the guest give up the mount")
	}
	return nil
}
