package passthrough

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/host"
)

// descriptors are all that the share has open on the host. It never has more than Config.MaxFDs, and
// all shares of a process together never have more than the process may have. When they run out,
// those of nodes are closed, see evict.go.
type descriptors struct {
	cfg  *Config
	find *locator // who knows which node can be found again
	part *host.Part

	used atomic.Int64 // all of them
	kept atomic.Int64 // of these, what the client keeps, see keep

	owners  owners
	evictor evictor
}

// fdReserve is what is left for the rest of the process when Config.MaxFDs is 0.
const fdReserve = 512

func (d *descriptors) setBudget() (err error) {
	if d.part, err = d.cfg.Host.Descriptors(); err != nil {
		return fmt.Errorf("passthrough: %w", err)
	}
	if d.cfg.MaxFDs == 0 {
		d.cfg.MaxFDs = d.cfg.Host.MaxDescriptors()
	}
	if d.cfg.MaxFDs > 0 {
		return nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("passthrough: getrlimit: %w", err)
	}
	n := int(min(limit.Cur, 1<<30))
	d.cfg.MaxFDs = n - min(fdReserve, n/2)
	return nil
}

// open is openat that counts descriptors and makes room when they run out. The
// client gets ENFILE: the limit is not its process's.
func (d *descriptors) open(dirfd int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	return d.opened(func() (int, unix.Errno) { return sysOpenat(dirfd, name, flags, mode) })
}

// opened is open for a call that makes a descriptor.
func (d *descriptors) opened(call func() (int, unix.Errno)) (int, unix.Errno) {
	if errno := d.count(); errno != 0 {
		return -1, errno
	}
	fd, errno := call()
	if errno == unix.EMFILE || errno == unix.ENFILE {
		d.evict(evictAtOnce)
		if fd, errno = call(); errno == unix.EMFILE {
			errno = unix.ENFILE
		}
	}
	if errno != 0 {
		d.uncount()
		return -1, errno
	}
	return fd, 0
}

// count counts a descriptor before it is made. FS never has more than MaxFDs, and all shares
// together never have more than the process may have. That holds whatever the client does on other
// queues at the same time. The remaining descriptors are the process's own. Room is made a little
// earlier, while a short search is enough.
func (d *descriptors) count() unix.Errno {
	most := int64(d.cfg.MaxFDs)
	n := d.used.Add(1)
	if n > most-most/32 {
		d.evict(evictAtOnce)
	}
	inShare := func() bool { return d.used.Load() <= most }
	inHost := func() bool { return d.part.Take(1) }
	if (n <= most || d.makeRoom(inShare)) && (inHost() || d.makeRoom(inHost)) {
		return 0
	}
	d.used.Add(-1)
	return unix.ENFILE
}

// uncount takes back what count has counted.
func (d *descriptors) uncount() {
	d.used.Add(-1)
	d.part.Put(1)
}

// close closes what open returned.
func (d *descriptors) close(fd int) {
	d.uncount()
	_ = sysClose(fd)
}

// keep counts a descriptor that the client can keep for as long as it likes. They may be 15/16 of
// all descriptors that FS may have; the rest serves requests. Descriptors of nodes are closed to
// make room, but these can't be. It is called before anything is done, so that a refused request
// has changed nothing.
func (d *descriptors) keep() unix.Errno { return d.keepMany(1) }

func (d *descriptors) keepMany(n int64) unix.Errno {
	if d.kept.Add(n) > int64(d.cfg.MaxFDs-d.cfg.MaxFDs/16) || !d.part.Keep(n) {
		d.kept.Add(-n)
		return unix.ENFILE
	}
	return 0
}

// unkeep takes back what keepMany has counted.
func (d *descriptors) unkeep(n int64) {
	d.kept.Add(-n)
	d.part.Unkeep(n)
}

// unkeepOn takes back what keep has counted, if a request failed after it.
func (d *descriptors) unkeepOn(errno unix.Errno) unix.Errno {
	if errno != 0 {
		d.unkeep(1)
	}
	return errno
}

// closeKept closes a descriptor that keep counts.
func (d *descriptors) closeKept(fd int) {
	d.close(fd)
	d.unkeep(1)
}
