package keeper

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Owner has the kernel say that this process dies before it has taken the process's memory apart,
// which takes more than 20 ms for each GiB of a guest's memory that the process has used. It is the owner
// of a robust futex (set_robust_list(2)): a word in memory that it shares with the keeper. The kernel
// marks the word when the process's first thread ends, whatever ends it, and wakes up who waits.
//
// The kernel has the addresses in it, so it must stay reachable. A nil *Owner does nothing.
type Owner struct {
	// What the kernel calls struct robust_list_head.
	first  uintptr // the entry below, or the list itself, which is then empty
	offset uintptr // from an entry to its word
	_      uintptr // an entry that is about to be in the list

	entry uintptr // the only one of the list: what is next, which is the list again
}

// NewOwner prepares this process. It must be called on its first thread, which a Go program never
// ends. It returns nil where it can't be done: the keeper then notices the death of the process later.
func NewOwner() *Owner {
	if unix.Gettid() != unix.Getpid() {
		return nil
	}
	o := &Owner{}
	o.first = uintptr(unsafe.Pointer(&o.first))
	const size = unsafe.Offsetof(o.entry)
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, o.first, size, 0); errno != 0 {
		return nil
	}
	return o
}

// Bits of a robust futex, see <linux/futex.h>. The others are the owner's thread id.
const (
	futexWaiters   = 0x80000000
	futexOwnerDied = 0x40000000
)

// Own makes the process the owner of the word, which is shared memory. It is called once.
func (o *Owner) Own(word *uint32) {
	if o == nil {
		return
	}
	o.entry = uintptr(unsafe.Pointer(&o.first))
	o.offset = uintptr(unsafe.Pointer(word)) - uintptr(unsafe.Pointer(&o.entry))
	atomic.StoreUint32(word, uint32(unix.Getpid())|futexWaiters)
	atomic.StoreUintptr(&o.first, uintptr(unsafe.Pointer(&o.entry)))
	wakeFutex(word)
}

// waitFutex waits until the word is not value any more, or returns early.
func waitFutex(word *uint32, value uint32) {
	const wait = 0 // FUTEX_WAIT, of shared memory
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wait, uintptr(value), 0, 0, 0)
}

// wakeFutex wakes up all who wait.
func wakeFutex(word *uint32) {
	const wake = 1 // FUTEX_WAKE, of shared memory
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wake, 1<<30, 0, 0, 0)
}
