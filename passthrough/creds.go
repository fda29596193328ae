package passthrough

import (
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// Acting as the guest's user. New files belong to the user and group that the
// thread's credentials say, and a default ACL or a set-group-ID directory then works
// by itself. Credentials are changed with raw system calls: in Linux they belong to
// the thread, while x/sys changes them for the whole process.

// capSet is the effective capabilities as the kernel's capset takes them.
type capSet struct {
	effective, permitted, inheritable [2]uint32
}

type capHeader struct {
	version uint32
	_       int32 // process; 0 is the calling thread
}

type capData struct{ effective, permitted, inheritable uint32 }

const capVersion3 = 0x20080522

func capget() (c capSet, errno unix.Errno) {
	h := capHeader{version: capVersion3}
	var d [2]capData
	_, _, errno = unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&d[0])), 0)
	for i := range d {
		c.effective[i], c.permitted[i], c.inheritable[i] = d[i].effective, d[i].permitted, d[i].inheritable
	}
	return c, errno
}

// capset sets the calling thread's capabilities.
func capset(c *capSet) unix.Errno {
	h := capHeader{version: capVersion3}
	var d [2]capData
	for i := range d {
		d[i] = capData{c.effective[i], c.permitted[i], c.inheritable[i]}
	}
	counted()
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&d[0])), 0)
	return errno
}

func (c *capSet) has(bit uint) bool { return c.effective[bit/32]&(1<<(bit%32)) != 0 }

func (c capSet) with(bit uint, on bool) capSet {
	if on {
		c.effective[bit/32] |= 1 << (bit % 32) & c.permitted[bit/32]
	} else {
		c.effective[bit/32] &^= 1 << (bit % 32)
	}
	return c
}

// credentials are the identities that the daemon takes for the guest's users.
type credentials struct {
	uid, gid      uint32 // the daemon's own
	caps          capSet // that threads start with
	canSwitch     bool   // the daemon may act as another user
	users, groups *IDMap // between guest and host

	tried   sync.Once
	private bool // see privateThreads
}

// newCredentials finds out what the daemon may do.
func newCredentials(users, groups *IDMap) (*credentials, error) {
	caps, errno := capget()
	if errno != 0 {
		return nil, errno
	}
	return &credentials{
		uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid()), caps: caps,
		canSwitch: caps.has(unix.CAP_SETUID) && caps.has(unix.CAP_SETGID),
		users:     users, groups: groups,
	}, nil
}

// privateThreads reports whether threads may have a working directory and umask of their own: some
// containers forbid unshare. The first call finds out by calling unshare. That is unshareFS on a
// thread that starts. Any other thread calls tryUnshareFS.
func (id *credentials) privateThreads(unshare func() error) bool {
	id.tried.Do(func() {
		if id.private = unshare() == nil; !id.private {
			unix.Umask(0)
		}
	})
	return id.private
}

// unshareFS gives the calling thread a working directory and umask of its own.
func unshareFS() error { return unix.Unshare(unix.CLONE_FS) }

// guestIDs are the owner and group that the guest sees.
func (id *credentials) guestIDs(st *unix.Statx_t) (uid, gid uint32) {
	return id.users.Guest(st.Uid), id.groups.Guest(st.Gid)
}

// tryUnshareFS is unshareFS on a thread that ends.
func tryUnshareFS() error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends here
		result <- unshareFS()
	}()
	return <-result
}

// setFsetid gives the thread CAP_FSETID or takes it away. With it, writing to a file
// leaves its setuid and setgid bits alone; without it the kernel clears them, as it
// does for users without privilege. The thread stays as it is until another request
// wants it otherwise.
func (id *credentials) setFsetid(ts *threadState, on bool) {
	if ts.caps.has(unix.CAP_FSETID) == on || !id.caps.has(unix.CAP_FSETID) {
		return
	}
	if want := ts.caps.with(unix.CAP_FSETID, on); capset(&want) == 0 {
		ts.caps = want
	}
}

// asCaller runs f with the credentials of the request's user. The guest's kernel has checked
// permissions already, with knowledge that we don't have (all groups of the user, capabilities in
// the guest); if the host then refuses, f runs once more with the right to override permissions
// (CAP_DAC_OVERRIDE).
func (id *credentials) asCaller(r *server.Request, umask uint32, f func() unix.Errno) (errno unix.Errno) {
	ts := threadOf(r)
	uid, gid, errno := id.callerIDs(r, ts)
	if errno != 0 {
		return errno
	}
	id.setFsetid(ts, true)
	if umask = umask & 0o777; ts.private && umask != ts.umask {
		unix.Umask(int(umask))
		ts.umask = umask
	}
	groups := ts.groups
	if len(groups) == 0 && (uid == id.uid && gid == id.gid || uid == 0 && gid == 0) {
		return f()
	}
	if !id.canSwitch {
		if uid == id.uid || uid == 0 {
			return f()
		}
		return unix.EPERM
	}
	if errno := id.become(ts, r.Thread, uid, gid, groups); errno != 0 {
		return errno
	}
	defer id.comeBack(ts, r.Thread, len(groups) > 0)
	errno = f()
	if errno == unix.EACCES && uid != 0 && id.caps.has(unix.CAP_DAC_OVERRIDE) {
		c := capSet{permitted: ts.caps.permitted, inheritable: ts.caps.inheritable}
		c = c.with(unix.CAP_DAC_OVERRIDE, true)
		if capset(&c) == 0 {
			errno = f()
		}
	}
	return errno
}

// callerIDs are the host's ids of the request's user; the groups, translated too, are
// in ts.groups. noID, which Linux sends with requests that make nothing, is refused:
// the kernel would take it for "as now", which is the daemon itself.
func (id *credentials) callerIDs(r *server.Request, ts *threadState) (uid, gid uint32, errno unix.Errno) {
	uid, mayUser := id.users.Host(r.Header.UID)
	gid, mayGroup := id.groups.Host(r.Header.GID)
	if !mayUser || !mayGroup || uid == noID || gid == noID {
		return 0, 0, unix.EPERM
	}
	ts.groups = ts.groups[:0]
	for _, g := range r.Groups {
		g, may := id.groups.Host(g)
		if !may || g == noID {
			return 0, 0, unix.EPERM
		}
		ts.groups = append(ts.groups, g)
	}
	return uid, gid, 0
}

const keepID = ^uintptr(0)

// unknownID is the errno for the guest of a call that takes users or groups and nothing else that
// could be wrong. In a user namespace the kernel answers EINVAL for an id that the namespace does
// not have (kernel/sys.c: __sys_setresuid). For the guest it is an id that the daemon may not use.
func unknownID(errno unix.Errno) unix.Errno {
	if errno == unix.EINVAL {
		return unix.EPERM
	}
	return errno
}

// become takes the user's identity. On error the thread is as it was, or broken.
func (id *credentials) become(ts *threadState, t *server.Thread, uid, gid uint32, groups []uint32) (errno unix.Errno) {
	if len(groups) > 0 {
		slices.Sort(groups)
		if errno = setgroups(groups); errno != 0 {
			return unknownID(errno)
		}
	}
	if gid != id.gid {
		_, errno = nonblocking(unix.SYS_SETRESGID, keepID, uintptr(gid), keepID)
	}
	if errno == 0 && uid != id.uid {
		_, errno = nonblocking(unix.SYS_SETRESUID, keepID, uintptr(uid), keepID)
	}
	if errno != 0 {
		id.comeBack(ts, t, len(groups) > 0)
	}
	return unknownID(errno)
}

// comeBack takes the daemon's own identity again. A thread that can't is not used
// for another request.
func (id *credentials) comeBack(ts *threadState, t *server.Thread, groups bool) {
	_, errno := nonblocking(unix.SYS_SETRESUID, keepID, uintptr(id.uid), keepID)
	if errno == 0 {
		_, errno = nonblocking(unix.SYS_SETRESGID, keepID, uintptr(id.gid), keepID)
	}
	if errno == 0 && groups {
		errno = setgroups(nil)
	}
	// The kernel has dropped the effective capabilities when the user changed from
	// 0, and given all permitted ones back with 0 again. Any other daemon's user,
	// or a raised capability, needs them set.
	if errno == 0 {
		if id.uid != 0 || ts.caps != id.caps || id.caps.effective != id.caps.permitted {
			errno = capset(&id.caps)
		}
		ts.caps = id.caps
	}
	if errno != 0 {
		t.Break()
	}
}

func setgroups(groups []uint32) unix.Errno {
	_, errno := nonblocking(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return errno
}
