package frontend

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Addresses of the window for the guest and for the front-end, apart from the memory's.
const (
	WindowGuestBase = 0x80_0000_0000
	WindowUserBase  = 0x7e34_0000_0000
)

// WindowOptions say how a front-end treats the shared memory region of a back-end (DAX).
type WindowOptions struct {
	// ID is the region's number; virtio-fs has its window in region 0.
	ID uint8
	// MemReg adds each mapping as guest memory, and answers a SHMEM_MAP before it does
	// so, both as QEMU 11.1: memory_region_transaction_commit comes after the reply.
	MemReg bool
	// HonorFlags maps for reading what is asked for reading. QEMU 11.1 maps everything
	// for writing, and refuses a file that is not open for both.
	HonorFlags bool
	// PastEnd maps past the end of files as mmap does; QEMU 11.1 refuses that.
	PastEnd bool
	// FSMap, if not zero, has the back-end ask by FS_MAP and FS_UNMAP with these numbers, as old VMMs do.
	// They don't ask for the window's size: it is Size bytes.
	FSMap vu.FSMap
	Size  uint64
	// Pending, with MemReg, is called between the answer and the mapping being there. A
	// back-end that tells the guest of a mapping before it has come back as memory has
	// told it too early.
	Pending func()
	// Before is called for each request of the back-end, on the channel's goroutine
	// and with no lock held, so it may wait and send requests of its own. An error
	// refuses the request, ErrHangUp closes the channel without an answer.
	Before func(r vu.BackendRequest, m vu.SharedMemoryMap) error
	// After is called when a request was carried out and before it is answered, like
	// Before.
	After func(r vu.BackendRequest, m vu.SharedMemoryMap) error
}

// ErrHangUp is for hooks that want the back-end channel closed.
var ErrHangUp = errors.New("hang up")

// ErrFault is the error of an access to a part of the window where no file is.
var ErrFault = errors.New("no memory here")

// Window is the shared memory region of a back-end, mapped in this process as a VMM
// shows it to its guest. It refuses what QEMU 11.1 refuses.
type Window struct {
	// Maps and Unmaps count what was carried out, Refused what was not.
	Maps, Unmaps, Refused atomic.Uint64

	f    *Frontend
	opts WindowOptions
	mem  []byte // inaccessible where nothing is mapped

	mu   sync.Mutex // guards maps and errs
	maps []vu.SharedMemoryMap
	errs []error

	channel *backendChannel
}

// openWindow asks for the region's size, reserves memory for it and opens the back-end
// channel.
func (f *Frontend) openWindow() error {
	need := vu.ProtocolBackendReq | vu.ProtocolBackendSendFD | vu.ProtocolReplyAck
	if f.opts.Window.FSMap == (vu.FSMap{}) {
		need |= vu.ProtocolSharedMemory
	}
	if !f.Protocol.Has(need) {
		return fmt.Errorf("no window: the back-end offers no %s", need&^f.Protocol)
	}
	size, err := f.windowSize()
	if err != nil {
		return err
	}
	w := &Window{f: f, opts: *f.opts.Window}
	w.mem, err = unix.Mmap(-1, 0, int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	f.Window = w
	w.channel, err = openBackendChannel(f, w)
	return err
}

// windowSize asks for the region's size, if it is asked for.
func (f *Frontend) windowSize() (uint64, error) {
	o := f.opts.Window
	if o.FSMap != (vu.FSMap{}) {
		return o.Size, nil
	}
	answer, err := f.Call(vu.ReqGetShmemConfig, nil)
	if err != nil {
		return 0, err
	}
	config, ok := vu.Decode[vu.SharedMemoryConfig](answer)
	size := config.Sizes[o.ID]
	if !ok || config.Regions == 0 || size == 0 || size%uint64(os.Getpagesize()) != 0 {
		return 0, fmt.Errorf("no window: %d regions, size %#x", config.Regions, size)
	}
	return size, nil
}

// Size is the window's length in bytes.
func (w *Window) Size() uint64 { return uint64(len(w.mem)) }

// Memory is the whole window. Where nothing is mapped, an access ends the program:
// see ReadAt and WriteAt.
func (w *Window) Memory() []byte { return w.mem }

// Mappings is what is mapped, ordered by offset.
func (w *Window) Mappings() []vu.SharedMemoryMap {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.maps)
}

// Errors are those that no caller has received, such as a region that the
// back-end refuses.
func (w *Window) Errors() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}

// ReadAt copies from the window. Reading where no mapping, or no file behind one, is
// gives ErrFault: a guest would have got a bus error.
func (w *Window) ReadAt(p []byte, off int64) (n int, err error) {
	return access(w.mem, off, len(p), func(mem []byte) int { return copy(p, mem) })
}

// WriteAt copies to the window; see ReadAt. ErrFault also where a mapping is read-only.
func (w *Window) WriteAt(p []byte, off int64) (n int, err error) {
	return access(w.mem, off, len(p), func(mem []byte) int { return copy(mem, p) })
}

// access turns a fault in f into ErrFault.
func access(mem []byte, off int64, n int, f func([]byte) int) (done int, err error) {
	if off < 0 || n > len(mem) || off > int64(len(mem)-n) {
		return 0, ErrFault
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if fault, ok := r.(interface{ Addr() uintptr }); ok {
			base := uintptr(unsafe.Pointer(&mem[0]))
			if at := fault.Addr(); at >= base && at < base+uintptr(len(mem)) {
				done, err = 0, fmt.Errorf("%w: offset %#x", ErrFault, at-base)
				return
			}
		}
		panic(r)
	}()
	done = f(mem[off : off+int64(n)])
	runtime.KeepAlive(mem)
	return done, nil
}

// Reset drops all mappings without a word to the back-end, as a VMM does when its guest
// resets the device.
func (w *Window) Reset() {
	w.f.control.Lock()
	defer w.f.control.Unlock()
	for _, m := range w.Mappings() {
		w.remove(m)
	}
}

// check is what QEMU checks of a request. m is in the window and, for SHMEM_MAP, free.
func (w *Window) check(r vu.BackendRequest, m vu.SharedMemoryMap) error {
	end := m.Offset + m.Length
	if m.ID != w.opts.ID || end < m.Offset || end > w.Size() {
		return unix.EFAULT
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if r == vu.BackendShmemUnmap {
		if !slices.ContainsFunc(w.maps, func(have vu.SharedMemoryMap) bool {
			return have.Offset == m.Offset && have.Length == m.Length
		}) {
			return fmt.Errorf("not mapped: %w", unix.EFAULT)
		}
		return nil
	}
	page := uint64(os.Getpagesize())
	if m.Length == 0 || m.FileOffset%page != 0 || m.Offset%page != 0 || m.Length%page != 0 {
		return unix.EFAULT
	}
	for _, have := range w.maps {
		if m.Offset < have.Offset+have.Length && have.Offset < end {
			return fmt.Errorf("overlaps with what is mapped at %#x: %w", have.Offset, unix.EFAULT)
		}
	}
	return nil
}

// checkFile is, without PastEnd, what QEMU does with a file that is too short: one that is empty is made
// longer (system/physmem.c: file_ram_alloc), any other is refused.
func (w *Window) checkFile(fd int, m vu.SharedMemoryMap) error {
	if w.opts.PastEnd {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	end := m.FileOffset + m.Length
	switch {
	case st.Size == 0:
		_ = unix.Ftruncate(fd, int64(end)) // QEMU prints an error and continues
	case end < m.Length || end > uint64(st.Size):
		return fmt.Errorf("past the end of the file at %#x: %w", st.Size, unix.EFAULT)
	}
	return nil
}

func (w *Window) protection(m vu.SharedMemoryMap) int {
	if w.opts.HonorFlags && m.Flags&vu.SharedMemoryWritable == 0 {
		return unix.PROT_READ
	}
	return unix.PROT_READ | unix.PROT_WRITE
}

// try maps a file somewhere, to know before the answer whether it can be mapped.
func (w *Window) try(fd int, m vu.SharedMemoryMap) error {
	b, err := unix.Mmap(fd, int64(m.FileOffset), int(m.Length), w.protection(m), unix.MAP_SHARED)
	if err == nil {
		err = unix.Munmap(b)
	}
	return err
}

// place maps a file in the window.
func (w *Window) place(fd int, m vu.SharedMemoryMap) error {
	_, err := unix.MmapPtr(fd, int64(m.FileOffset), unsafe.Pointer(&w.mem[m.Offset]), uintptr(m.Length),
		w.protection(m), unix.MAP_SHARED|unix.MAP_FIXED)
	if err != nil {
		return err
	}
	w.Maps.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.maps, m.Offset, func(have vu.SharedMemoryMap, off uint64) int {
		return int(int64(have.Offset - off))
	})
	w.maps = slices.Insert(w.maps, i, m)
	return nil
}

// remove takes a mapping away, from the back-end's view of guest memory too. The control
// lock is held.
func (w *Window) remove(m vu.SharedMemoryMap) {
	w.mu.Lock()
	w.maps = slices.DeleteFunc(w.maps, func(have vu.SharedMemoryMap) bool { return have.Offset == m.Offset })
	w.mu.Unlock()
	w.Unmaps.Add(1)
	_, err := unix.MmapPtr(-1, 0, unsafe.Pointer(&w.mem[m.Offset]), uintptr(m.Length), unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED)
	w.note(err)
	if w.opts.MemReg {
		s := vu.SingleRegion{Region: windowRegion(m)}
		w.note(w.f.acked(vu.ReqRemMemReg, vu.Bytes(&s)))
	}
}

func windowRegion(m vu.SharedMemoryMap) vu.MemoryRegion {
	return vu.MemoryRegion{GuestAddr: WindowGuestBase + m.Offset, UserAddr: WindowUserBase + m.Offset,
		Size: m.Length, MmapOffset: m.FileOffset}
}

// note keeps an error for Errors. That a connection has ended is none.
func (w *Window) note(err error) {
	for _, end := range []error{io.EOF, net.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		if err == nil || errors.Is(err, end) {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// close ends the channel and gives the memory back.
func (w *Window) close() {
	w.channel.close()
	_ = unix.Munmap(w.mem)
	w.mem = nil
}
