package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// With AllowDirectIO a file that the guest opens with O_DIRECT is open like that here. Not
// every request on such an open file is direct I/O of a program's:
//
//   - A page of a shared mapping is written through any file that is open for writing,
//     also if the mapping is of another (fs/fuse/file.c: fuse_write_file_get). It ends where
//     the file does, which direct I/O refuses. WRITE says so: WRITE_CACHE.
//   - A program may take O_DIRECT off with fcntl, and then read and write as it likes. READ
//     and WRITE carry the flags as they are at the time.
//   - Pages for mappings are read with a READ like any other.
//   - COPY_FILE_RANGE has no flags and any offset.
//
// These go through the page cache, by a second descriptor that the open file gets with the
// first of them. To take O_DIRECT off the descriptor for one request would take it off
// those that run at the same time.

// goesDirect reports whether a READ or WRITE with these flags of the open file goes past
// the page cache.
func (f *openFile) goesDirect(flags uint32) bool { return f.direct && flags&unix.O_DIRECT != 0 }

// writesDirect is goesDirect for a WRITE.
func (f *openFile) writesDirect(in *fp.WriteIn) bool {
	return f.goesDirect(in.Flags) && in.WriteFlags&fp.WriteCache == 0
}

// inPages reports whether a request is for whole pages, as all for the page cache are, and
// direct I/O of programs may be. If the host refuses that with EINVAL, it wants larger units,
// or memory in another place than the transport has it: neither is the guest's doing.
func inPages(off uint64, size uint32) bool { return (off|uint64(size))%hostPage == 0 }

// clearDirect takes O_DIRECT off an open file.
func clearDirect(fd int) {
	if flags, errno := syscall6(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0, 0, 0, 0); errno == 0 {
		_, _ = syscall6(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT, 0, 0, 0)
	}
}

// cachedFD is the descriptor for what goes through the page cache. It is valid while the
// caller has a reference on the open file.
func (o *opener) cachedFD(r *server.Request, f *openFile) int {
	if !f.direct {
		return f.fd
	}
	if fd := f.cached.Load(); fd != 0 {
		return int(fd)
	}
	fd, errno := o.openCached(threadOf(r), f)
	if errno != 0 {
		// No descriptors left, or a file that may not be opened again. The open file then
		// goes through the page cache for good, which is slower and not wrong.
		clearDirect(f.fd)
		fd = f.fd
	}
	if !f.cached.CompareAndSwap(0, int32(fd)) && fd != f.fd {
		o.fds.closeKept(fd) // another request was faster
	}
	return int(f.cached.Load())
}

// openCached opens the file again, without O_DIRECT.
func (o *opener) openCached(ts *threadState, f *openFile) (int, unix.Errno) {
	if errno := o.fds.keep(); errno != 0 {
		return -1, errno
	}
	fd, errno := o.openAgain(ts, f.fd, o.hostFlags(f.flags)&^(unix.O_DIRECT|unix.O_TRUNC), f.flags)
	if errno != 0 {
		o.fds.unkeep(1)
	}
	return fd, errno
}

// closeCached closes the second descriptor of an open file when it is not in
// use.
func (o *opener) closeCached(f *openFile) {
	if fd := int(f.cached.Swap(0)); fd != 0 && fd != f.fd {
		o.fds.closeKept(fd)
	}
}
