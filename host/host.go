// Package host is what the shares of one process have in common: budgets of descriptors,
// of threads that wait and of memory, and the number of processors that Go's scheduler has.
// Nothing of it is global: a program makes a Host and gives it to each of its shares.
//
// A program with one share needs none. With several shares, give one Host to all of them:
// server.Options, virtiofs.Options and passthrough.Config have a field for it.
//
// A share has a part of each budget. A part has an amount of its own, so that a client who
// takes all that can be had takes nothing from another's.
package host

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Options are the sizes of a process's budgets.
type Options struct {
	// Descriptors is how many all shares may have open; 0 is the process's limit
	// (RLIMIT_NOFILE) less a reserve for all else.
	Descriptors int
	// ShareDescriptors is how many of them each share has of its own; 0 is a 1024th, and
	// at least 64.
	ShareDescriptors int
	// Threads is how many threads all shares may have that wait in system calls, beside one
	// for each share; 0 is 256.
	Threads int
	// Memory is how many bytes requests that wait may keep, those of all shares together,
	// beside 1 MiB for each share; 0 is 256 MiB.
	Memory int64

	// Processors, if not nil, gives Go's scheduler n processors (runtime.GOMAXPROCS). It is
	// called when that number changes, by one goroutine at a time. It begins with one, and
	// gets more when there is more to do at the same time: each that goroutines have run on
	// keeps some tens of KiB. Libraries do not change the number by themselves.
	Processors func(n int)
	// MaxProcessors is how many there may be beside one for each queue's thread.
	MaxProcessors int
}

// The defaults of Options.
const (
	descriptorReserve = 512
	minDescriptors    = 64
	defaultThreads    = 256
	defaultMemory     = 256 << 20
)

// What a share has of its own.
const (
	shareThreads = 1
	shareMemory  = 1 << 20
)

// maxBudget is what the amounts of one Part can be.
const maxBudget = 1<<31 - 1

// Host is what the shares of one process have in common. Its methods may be called by any
// goroutine, and on a nil Host: then nothing is limited and no number changed.
type Host struct {
	descriptors, threads, memory *Budget

	maxDescriptors, shareDescriptors int

	mu         sync.Mutex // guards the following; a leaf, but for processors
	processors func(n int)
	own, most  int // processors for all goroutines but the queues' threads
	queues     int // those threads
	waiting    int // threads that wait for requests' system calls
	set        int // what processors was last told
}

// New makes a Host.
func New(o Options) (*Host, error) {
	if o.Descriptors == 0 {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return nil, fmt.Errorf("host: getrlimit: %w", err)
		}
		n := int(min(limit.Cur, maxBudget))
		o.Descriptors = n - min(descriptorReserve, n/2)
	}
	o.Descriptors = min(o.Descriptors, maxBudget)
	if o.ShareDescriptors == 0 {
		o.ShareDescriptors = min(max(o.Descriptors/1024, minDescriptors), o.Descriptors)
	}
	if o.Threads == 0 {
		o.Threads = defaultThreads
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	return &Host{
		descriptors:      newBudget("descriptors", int64(o.Descriptors)),
		threads:          newBudget("threads", int64(o.Threads)),
		memory:           newBudget("bytes of memory", o.Memory),
		maxDescriptors:   o.Descriptors,
		shareDescriptors: o.ShareDescriptors,
		processors:       o.Processors,
		own:              1,
		most:             max(o.MaxProcessors, 1),
	}, nil
}

// MaxDescriptors is the size of the budget; 0 on a nil Host.
func (h *Host) MaxDescriptors() int {
	if h == nil {
		return 0
	}
	return h.maxDescriptors
}

// Descriptors is a share's part of the descriptors; nil on a nil Host. The error is ErrBudget.
func (h *Host) Descriptors() (*Part, error) {
	if h == nil {
		return nil, nil
	}
	return h.descriptors.NewPart(int64(h.shareDescriptors))
}

// Threads is a share's part of the threads that wait; nil on a nil Host.
func (h *Host) Threads() *Part {
	if h == nil {
		return nil
	}
	return &Part{budget: h.threads, own: shareThreads}
}

// Memory is a share's part of the bytes that waiting requests keep; nil on a nil Host.
func (h *Host) Memory() *Part {
	if h == nil {
		return nil
	}
	return &Part{budget: h.memory, own: shareMemory}
}

// Want says that n goroutines may be busy or in system calls at the same time.
func (h *Host) Want(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want(n)
}

// want is Want with h.mu held. There are never less again.
func (h *Host) want(n int) {
	h.own = max(h.own, min(n, h.most))
	h.tell()
}

// AddWaiting says that there are n more threads that wait in system calls for requests, or
// less.
func (h *Host) AddWaiting(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting += n
	h.want(h.waiting + 1)
}

// AddQueues adds processors for the threads of n more queues, or takes them away: they sleep
// in system calls. For the scheduler such a thread keeps its processor until a monitor thread
// takes it away, which may be ten milliseconds later. With as many of them as processors, a
// request that was handed to another goroutine would wait as long.
func (h *Host) AddQueues(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queues += n
	h.tell()
}

// tell is called with h.mu held. The number is not told twice: to change it stops all
// goroutines for a moment.
func (h *Host) tell() {
	if n := h.own + h.queues; h.processors != nil && n != h.set {
		h.set = n
		h.processors(n)
	}
}
