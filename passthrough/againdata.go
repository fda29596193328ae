package passthrough

import (
	"bytes"
	"math"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// maxTail is how much of the end of a file is searched for data that may have been appended.
const maxTail = 8 << 20

// intendAppend notes that r is about to append to an open file, or to change its length in another
// way. The evidence is where its end is: the client's offset may be anything.
func intendAppend(r *server.Request, fd int) unix.Errno {
	if r.Cell == nil {
		return 0
	}
	end, errno := sysLseek(fd, 0, unix.SEEK_END)
	if errno == 0 {
		r.Cell.Intend(0, fuse.Evidence{0: uint64(end), turnWord: uint64(turnOfEnd(r.Header.NodeID))})
	}
	return errno
}

// appendNext prepares a WRITE that appends. n is how many of its bytes a predecessor has
// written: what is left is written next, behind them, unless done says that it has come to the end. The
// evidence stays the same then, so that another successor finds all of it.
func (d *decider) appendNext(r *server.Request, fd int, in *fp.WriteIn, src fuse.Buffers) (n int, done bool, errno unix.Errno) {
	if _, errno = d.turns.take(r, turnOfEnd(r.Header.NodeID), false); errno != 0 {
		return 0, false, errno
	}
	a := past(r)
	if a != nil && a.Step > 0 { // see Write
		return min(a.Step-1, int(in.Size)), true, 0
	}
	n, errno = d.appendedBefore(fd, a, threadOf(r), in, src)
	if n == 0 && errno == 0 {
		errno = intendAppend(r, fd)
	}
	return n, n > 0 && n == int(in.Size), errno
}

// appendedBefore decides on a WRITE that appends. Appended data lies behind the end that the
// file had, unless another process has truncated the file. If the data is found there, it was
// written. The predecessor may have written only a part: then the file ends with that part. n is
// how much of it is there.
func (d *decider) appendedBefore(fd int, a *server.Again, ts *threadState, in *fp.WriteIn, src fuse.Buffers) (n int, errno unix.Errno) {
	if a == nil || in.Size == 0 {
		return 0, 0
	}
	end, errno := sysLseek(fd, 0, unix.SEEK_END)
	if errno != 0 {
		return 0, errno
	}
	had := int64(min(a.Evidence[0], math.MaxInt64))
	from := max(had, end-maxTail)
	if from >= end {
		return 0, 0
	}
	tail, ok := d.readTail(ts, fd, from, end)
	if !ok { // it can't be read: its length decides
		return int(min(end-had, int64(in.Size))), 0
	}
	// Of what decides there is a copy: the client may change its buffers at any time.
	data := make([]byte, in.Size)
	src.CopyTo(data, 0)
	switch {
	case bytes.Contains(tail, data):
		return len(data), 0
	case from == had && bytes.HasPrefix(data, tail):
		return len(tail), 0 // a large write ends early when the process is killed
	}
	return 0, 0
}

// readTail reads what an open file has between two offsets; ok is false if it can't be read.
func (d *decider) readTail(ts *threadState, fd int, from, end int64) (tail []byte, ok bool) {
	f, errno := d.fds.open(d.cfg.ProcFD, procName(&ts.num, fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errno != 0 {
		return nil, false
	}
	defer d.fds.close(f)
	tail = make([]byte, end-from)
	for got := 0; got < len(tail); {
		n, errno := sysPread(f, tail[got:], from+int64(got))
		if errno != 0 {
			return nil, false
		}
		if n == 0 {
			return tail[:got], true
		}
		got += n
	}
	return tail, true
}

// shifts are the modes of FALLOCATE that move what is behind the range. Linux does not send them
// over virtio-fs. Served a second time, they would move the data a second time.
const shifts = unix.FALLOC_FL_COLLAPSE_RANGE | unix.FALLOC_FL_INSERT_RANGE

// shiftedBefore decides on such a FALLOCATE: done if the file's length has changed by that much.
func shiftedBefore(r *server.Request, fd int, in *fp.FallocateIn) (done bool, errno unix.Errno) {
	a := past(r)
	if a == nil {
		return false, 0
	}
	end, errno := sysLseek(fd, 0, unix.SEEK_END)
	if errno != 0 {
		return false, errno
	}
	want := a.Evidence[0] + in.Length
	if in.Mode&unix.FALLOC_FL_COLLAPSE_RANGE != 0 {
		want = a.Evidence[0] - in.Length
	}
	return a.Step > 0 || uint64(end) == want, 0
}

// hasXattr reports whether there is an attribute. path and name are as in sysGetxattr.
func hasXattr(path, name *byte) bool {
	_, errno := sysGetxattr(path, name, nil)
	return errno != unix.ENODATA
}

// intendXattr notes that r is about to change an attribute. The evidence is whether there is one, if look says that it
// matters.
func intendXattr(r *server.Request, turn turnKey, path, name *byte, look bool) {
	if r.Cell == nil {
		return
	}
	e := fuse.Evidence{turnWord: uint64(turn)}
	if look && hasXattr(path, name) {
		e[0] = 1
	}
	r.Cell.Intend(0, e)
}

// setBefore decides on SETXATTR. One that is to make an attribute is done if there was none, and it has
// this value now; others may run again. path and name are as in sysSetxattr.
func (d *decider) setBefore(r *server.Request, path, name *byte, value []byte, create bool) (done bool) {
	a := past(r)
	switch {
	case a == nil:
		return false
	case a.Step > 0:
		return true
	case !create || a.Evidence[0] != 0:
		return false
	}
	has := make([]byte, len(value)+1)
	n, errno := sysGetxattr(path, name, has)
	return errno == 0 && bytes.Equal(has[:n], value)
}

// unsetBefore decides on REMOVEXATTR: done if there was an attribute, and is none now.
func (d *decider) unsetBefore(r *server.Request, path, name *byte) (done bool) {
	a := past(r)
	return a != nil && (a.Step > 0 || a.Evidence[0] != 0 && !hasXattr(path, name))
}
