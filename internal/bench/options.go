package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Options say what to measure. Zero values are replaced by Check.
type Options struct {
	Dir       string // shared by all targets
	Targets   []Target
	Workloads []Workload
	Depths    []int // requests at the same time, per queue
	Queues    int   // request queues
	Guests    int   // daemons of each target, each with a guest, at the same time
	QueueSize int
	Duration  time.Duration // of each round
	Count     uint64        // units of each round instead; 0 is Duration
	Rounds    int
	Warmup    time.Duration // before the first round of each workload
	Spin      time.Duration // look at the ring so long before sleeping
	Chunk     int           // bytes of the largest data buffer; 0 is all in one
	Files     int           // nodes that lookup-new goes through
	ColdSize  int64         // bytes of the file that randread reads
	ListSize  int           // bytes of a READDIRPLUS
	Floor     bool          // measure the bare system calls, too
	Best      bool          // report the best rounds instead of medians
	Syscalls  bool          // count the back-end's system calls, too, in a round of its own
	// MaxForeign is the part of the processors' time that other programs may have in a
	// round that counts, from 0 to 1. Rounds with more are dropped and repeated, up to once
	// each. 0 means a tenth; 1 drops no round.
	MaxForeign float64
	// NoIndirect and NoEventIdx leave ring features out.
	NoIndirect, NoEventIdx bool
	// Progress is told what is being done and how much of all is, from 0 to 1.
	Progress func(what string, done float64)
}

// Check sets defaults and returns an error for wrong options.
func (o *Options) Check() error {
	setDefault(&o.Queues, 1)
	setDefault(&o.Guests, 1)
	setDefault(&o.QueueSize, 128)
	setDefault(&o.Rounds, 1)
	setDefault(&o.Files, 10000)
	setDefault(&o.ListSize, 32<<10)
	setDefault(&o.ColdSize, 256<<20)
	if o.MaxForeign == 0 {
		o.MaxForeign = 0.1
	}
	if o.Duration == 0 && o.Count == 0 {
		o.Duration = 300 * time.Millisecond
	}
	if len(o.Depths) == 0 {
		o.Depths = []int{1}
	}
	if o.Progress == nil {
		o.Progress = func(string, float64) {}
	}
	return o.check()
}

func setDefault[T int | int64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

func (o *Options) check() error {
	switch {
	case len(o.Targets) == 0:
		return errors.New("there is nothing to measure")
	case o.Dir == "":
		return errors.New("the shared directory is not named")
	case o.Queues < 1 || o.Queues > 64:
		return fmt.Errorf("%d queues: 1 to 64 are possible", o.Queues)
	case o.Guests < 1 || o.Guests > 256:
		return fmt.Errorf("%d guests: 1 to 256 are possible", o.Guests)
	case o.QueueSize < 8 || o.QueueSize > 32768 || o.QueueSize&(o.QueueSize-1) != 0:
		return fmt.Errorf("queue size %d: a power of two from 8 to 32768 is needed", o.QueueSize)
	case slices.Min(o.Depths) < 1 || o.maxDepth() > o.mostDepth():
		return fmt.Errorf("depths %v: 1 to %d are possible with this queue size", o.Depths, o.mostDepth())
	case o.Rounds < 1, o.Duration < 0, o.Warmup < 0, o.Spin < 0:
		return errors.New("rounds and times must be positive")
	case o.MaxForeign < 0 || o.MaxForeign > 1:
		return fmt.Errorf("foreign processor time of %v: 0 to 1 are possible", o.MaxForeign)
	case o.Chunk != 0 && (o.Chunk < 4096 || o.Chunk%4096 != 0 || o.NoIndirect):
		return fmt.Errorf("chunks of %d bytes: a multiple of 4096 is needed, and indirect descriptors", o.Chunk)
	case o.Files < 1 || o.Files > 10_000_000:
		return fmt.Errorf("%d files: 1 to 10,000,000 are possible", o.Files)
	case o.ColdSize < 1<<20:
		return fmt.Errorf("a cold file of %d bytes: 1 MiB is the least", o.ColdSize)
	case o.ListSize < 4096 || o.ListSize > 1<<20:
		return fmt.Errorf("listings of %d bytes: 4 KiB to 1 MiB are possible", o.ListSize)
	}
	for i, t := range o.Targets {
		if o.Guests > 1 && t.Command == "" {
			return errors.New("several guests need a daemon each, and so a command that starts it")
		}
		if slices.ContainsFunc(o.Targets[:i], func(u Target) bool { return u.Name == t.Name }) || t.Name == floorName {
			return fmt.Errorf("two targets are called %q", t.Name)
		}
	}
	return nil
}

func (o *Options) maxDepth() int { return slices.Max(o.Depths) }

// mostDepth is how many requests fit the ring.
func (o *Options) mostDepth() int {
	if o.NoIndirect {
		return o.QueueSize / 4
	}
	return o.QueueSize
}

// dataSize is the room for file data that the workloads need in each request.
func (o *Options) dataSize() int {
	n := o.ListSize
	for _, w := range o.Workloads {
		n = max(n, w.Bytes)
	}
	return n
}
