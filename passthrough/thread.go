package passthrough

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/server"
)

// threadState is what FS keeps for an operating system thread.
type threadState struct {
	st      unix.Statx_t
	found   unix.Statx_t // of a file that is being opened again
	basic   basicStat    // of an open file
	statfs  unix.Statfs_t
	num     [16]byte // a descriptor's name in /proc/self/fd
	path    [32]byte // the same with the directory, when the thread has no own one
	private bool     // working directory is /proc/self/fd, umask is the thread's own
	umask   uint32
	groups  []uint32      // scratch
	value   []byte        // scratch: an attribute's value
	caps    capSet        // effective capabilities at the moment
	xattr   [512]byte     // the host's name of an attribute, with its NUL
	mark    [markMax]byte // scratch: see ownxattr.go
	handle  rawHandle     // scratch

	fileTimeThen int64  // see fileTime
	fileTimeRead uint64 // by package ticks

	// cell is that of the request that the thread serves, or nil.
	cell *fuse.Cell
}

// threadOf is the state of the request's thread. A thread that only waits for a lock has none at
// first.
func threadOf(r *server.Request) *threadState {
	ts, ok := r.Thread.Local.(*threadState)
	if !ok {
		ts = &threadState{}
		r.Thread.Local = ts
	}
	ts.cell = r.Cell
	return ts
}

// StartThread implements server.Threads. The thread gets a working directory
// of its own, /proc/self/fd, so that a path of one component names any open
// descriptor: calls that know no directory descriptor (truncate, getxattr) then work
// on exactly the file that was checked, whatever happens to its name.
func (fs *FS) StartThread(t *server.Thread) error {
	ts := &threadState{caps: fs.who.caps}
	t.Local = ts
	if !fs.who.privateThreads(unshareFS) {
		return nil
	}
	if err := unshareFS(); err != nil { // once more for the first one, which changes nothing
		return fmt.Errorf("passthrough: unshare of a thread's working directory: %w", err)
	}
	if err := unix.Fchdir(fs.cfg.ProcFD); err != nil {
		return fmt.Errorf("passthrough: fchdir to /proc/self/fd: %w", err)
	}
	unix.Umask(0)
	ts.private = true
	return nil
}

// StopThread implements server.Threads.
func (fs *FS) StopThread(*server.Thread) {}

// procPath is a path of the file behind fd for calls that know no directory
// descriptor.
func (ts *threadState) procPath(fd int) *byte {
	if ts.private {
		return procName(&ts.num, fd)
	}
	const dir = "/proc/self/fd/"
	p := procName(&ts.num, fd)
	n := copy(ts.path[:], dir)
	for {
		ts.path[n] = *p
		if *p == 0 {
			return &ts.path[0]
		}
		n++
		p = (*byte)(unsafe.Add(unsafe.Pointer(p), 1))
	}
}
