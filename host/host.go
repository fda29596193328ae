// Package host has what the shares of one process have in common: budgets of descriptors,
// of waiting threads and of memory, and the number of processors of Go's scheduler. Nothing
// in it is global: a program makes a Host and gives it to each of its shares.
//
// A program with one share needs no Host. With several shares, give one Host to all of
// them: server.Options, virtiofs.Options and passthrough.Config have a field for it.
//
// A share has a part of each budget. A part has an amount of its own, so a client that
// takes all it can get takes nothing from another share's own amount.
package host

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Options are the sizes of a process's budgets.
type Options struct {
	// Descriptors is the number of descriptors that all shares together may have
	// open. 0 means the process's limit (RLIMIT_NOFILE) less a reserve for
	// everything else.
	Descriptors int
	// ShareDescriptors is the own amount of each share; 0 means a 1024th, and at least
	// 64.
	ShareDescriptors int
	// Threads is the number of threads of all shares that may wait in system calls, in
	// addition to one for each share; 0 means 256.
	Threads int
	// Memory is the number of bytes that the waiting requests of all shares together may
	// keep, in addition to 1 MiB for each share; 0 means 256 MiB.
	Memory int64

	// Processors, if not nil, sets the number of processors of Go's scheduler to n
	// (runtime.GOMAXPROCS). It is called when that number changes, by one goroutine at a
	// time. The number begins with one, and grows when there is more to do at the same
	// time, because each processor that goroutines have run on keeps some tens of KiB.
	// Libraries do not change the number by themselves.
	Processors func(n int)
	// MaxProcessors is the limit, in addition to one for each queue's thread.
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

// maxBudget is the largest amount of one Part.
const maxBudget = 1<<31 - 1

// Host is what the shares of one process have in common. Any goroutine may call its
// methods. On a nil Host they limit nothing and change no number.
type Host struct {
	descriptors, threads, memory *Budget

	maxDescriptors, shareDescriptors int

	mu         sync.Mutex // guards the following; a leaf, but for processors
	processors func(n int)
	own, most  int // processors for all goroutines except the queues' threads
	queues     int // number of the queues' threads
	waiting    int // threads that wait for requests' system calls
	set        int // the last argument of processors
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

// want is Want with h.mu held. The number never falls.
func (h *Host) want(n int) {
	h.own = max(h.own, min(n, h.most))
	h.tell()
}

// AddWaiting adds n to the number of threads that wait in system calls for requests. n may
// be negative.
func (h *Host) AddWaiting(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting += n
	h.want(h.waiting + 1)
}

// AddQueues adds processors for the threads of n more queues, or removes them if n is
// negative. Such a thread sleeps in a system call. For the scheduler it keeps its processor
// until a monitor thread takes it away, which may be ten milliseconds later. If there are
// only as many processors as such threads, a request that was handed to another goroutine
// waits as long.
func (h *Host) AddQueues(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queues += n
	h.tell()
}

// tell is called with h.mu held. It does not report the same number twice, because a
// change stops all goroutines for a moment.
func (h *Host) tell() {
	if n := h.own + h.queues; h.processors != nil && n != h.set {
		h.set = n
		h.processors(n)
	}
}
