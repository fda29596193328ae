package share

// Recovery is what happens when the process that serves dies.
type Recovery struct {
	Recover RecoveryMode
}

// RecoveryMode says whether another process takes over from one that has died.
type RecoveryMode string

// Whether a process that has died is replaced.
const (
	RecoveryAuto  RecoveryMode = "auto"
	RecoveryNever RecoveryMode = "never"
)

func recoveryOptions() []Option {
	return []Option{
		{
			Name: "recovery", Default: string(RecoveryAuto),
			Value: oneOf(func(c *Config) *RecoveryMode { return &c.Recover }, literally(RecoveryAuto, RecoveryNever)...),
			Help:  "What happens when the serving process dies: another one takes over; the daemon ends. Default {default}.",
			Manual: `What happens when the process that serves the share dies: it is killed, or has a fault.
.Cm auto
(the default): another process takes over.
The process that was started stays: it holds what the next process needs, and starts it.
.Cm never :
the daemon ends.
With
.Fl -sandbox Ns = Ns Cm chroot
and
.Cm none
there is one process only.`,
		},
	}
}
