package vfs

import (
	"context"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Locker is an open file, or a node, that keeps the locks of fcntl(2) and flock(2) itself: for
// nodes that several clients use. Without Options.Locks each client's kernel keeps its own. Locks is one.
type Locker interface {
	// GetLock is a lock that keeps l from being taken, or one of the kind Unlock.
	GetLock(ctx context.Context, l Lock) (Lock, error)
	// SetLock takes l, instead of what its owner has in that range, or drops what it has there if the
	// kind is Unlock. If another owner's lock is in the way it is EAGAIN, or, if wait is true, SetLock
	// waits until ctx ends. What an owner has is dropped by such a call, too, when it closes the
	// file.
	SetLock(ctx context.Context, l Lock, wait bool) error
}

// LockKind is what a lock excludes.
type LockKind int

// Kinds of locks.
const (
	Unlock    LockKind = iota // no lock
	ReadLock                  // excludes WriteLock
	WriteLock                 // excludes all others
)

// Lock is a lock of a range of a file.
type Lock struct {
	Owner LockOwner
	Kind  LockKind
	// Start and End are the first and the last byte. math.MaxInt64 is the end of the file, however long
	// it gets.
	Start, End int64
	PID        uint32 // the process in the client
}

// LockOwner is who has a lock: a process (fcntl), or an open file (flock), of one client. The owners of
// different file systems made by New are different.
type LockOwner struct {
	client *FS
	number uint64
	flock  bool
}

// Flock reports whether the owner's locks are those of flock(2), which have nothing to do with those
// of fcntl(2) and cover the whole file.
func (o LockOwner) Flock() bool { return o.flock }

// Excludes reports whether l and m can't be held at the same time.
func (l Lock) Excludes(m Lock) bool {
	return l.Owner != m.Owner && l.Owner.flock == m.Owner.flock && (l.Kind == WriteLock || m.Kind == WriteLock) &&
		l.Kind != Unlock && m.Kind != Unlock && l.Start <= m.End && m.Start <= l.End
}

// Getlk implements server.FileSystem.
func (f *FS) Getlk(r *server.Request, in *fp.LkIn, out *fp.LkOut) unix.Errno {
	if !f.opts.Locks {
		return unix.ENOSYS // the client keeps its locks itself
	}
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		want, err := f.lockOf(in, o)
		if err != nil {
			return err
		}
		l, ok := asHandle[Locker](o.handle)
		if !ok {
			return unix.EOPNOTSUPP
		}
		got, err := l.GetLock(ctx, want)
		if err != nil {
			return err
		}
		out.Lk = fp.FileLock{Type: unix.F_UNLCK}
		if got.Kind != Unlock {
			out.Lk = fp.FileLock{Start: uint64(max(got.Start, 0)), End: uint64(max(got.End, 0)), Type: unix.F_RDLCK}
			if got.Kind == WriteLock {
				out.Lk.Type = unix.F_WRLCK
			}
			if got.Owner.client == f { // numbers of other clients mean nothing to this one
				out.Lk.PID = got.PID
			}
		}
		return nil
	})
}

// Setlk implements server.FileSystem. A lock that waits has none of the slots of methods that run: those
// that would drop the lock may need one.
func (f *FS) Setlk(r *server.Request, in *fp.LkIn, wait bool) unix.Errno {
	if !f.opts.Locks {
		return unix.ENOSYS
	}
	waits := wait && r.MayWait
	set := func(ctx context.Context, o *openFile) error { return f.setLock(ctx, o, in, waits) }
	if waits {
		o := f.acquireOpen(r, in.Fh)
		if o == nil {
			return unix.EBADF
		}
		defer f.open.Release(o)
		return answerable(server.Errno(set(contextOf(r), o)))
	}
	errno := f.useOpen(r, in.Fh, set)
	if wait && errno == unix.EAGAIN {
		return server.WouldBlockInGo
	}
	return errno
}

// lockOf is what a request asks for. The client's numbers may be any.
func (f *FS) lockOf(in *fp.LkIn, o *openFile) (Lock, error) {
	l := Lock{Owner: LockOwner{client: f, number: in.Owner}, PID: in.Lk.PID, Start: 0, End: math.MaxInt64}
	switch in.Lk.Type {
	case unix.F_UNLCK:
	case unix.F_RDLCK:
		l.Kind = ReadLock
	case unix.F_WRLCK:
		l.Kind = WriteLock
	default:
		return l, unix.EINVAL
	}
	if in.LkFlags&fp.LkFlock != 0 {
		l.Owner.number, l.Owner.flock = o.ID(), true
		return l, nil
	}
	if in.Lk.Start > in.Lk.End || in.Lk.End > math.MaxInt64 {
		return l, unix.EINVAL
	}
	l.Start, l.End = int64(in.Lk.Start), int64(in.Lk.End)
	return l, nil
}

func (f *FS) setLock(ctx context.Context, o *openFile, in *fp.LkIn, wait bool) error {
	l, err := f.lockOf(in, o)
	if err != nil {
		return err
	}
	locker, ok := asHandle[Locker](o.handle)
	if !ok {
		return unix.EOPNOTSUPP
	}
	// The owner is noted before it has the lock: a close of the file meanwhile finds it.
	if l.Kind != Unlock && !f.owners.note(f, o, l.Owner) {
		return unix.ENOLCK
	}
	if err := locker.SetLock(ctx, l, wait); err != nil {
		return err
	}
	if l.Kind != Unlock && !f.open.Has(o) { // nobody would drop it
		_ = locker.SetLock(ctx, Lock{Owner: l.Owner, End: math.MaxInt64}, false)
		return unix.EBADF
	}
	return nil
}

// dropLocks drops the locks of owners of a node through an open file.
func dropLocks(ctx context.Context, o *openFile, owners []LockOwner) {
	if l, ok := asHandle[Locker](o.handle); ok {
		for _, owner := range owners {
			_ = l.SetLock(ctx, Lock{Owner: owner, End: math.MaxInt64}, false)
		}
	}
}

// lockOwners are the owners that may have locks, by node, each with the number of the open file by which
// it has asked last. Its locks are dropped when that is closed. A process has none left then: it has sent FLUSH.
// The owner of an OFD lock (F_OFD_SETLK) is an open file of the client. Its end is all that we are told: Linux sends
// neither FLUSH nor an unlock for it (fs/fuse/file.c: fuse_setlk, FL_CLOSE_POSIX).
type lockOwners struct {
	mu sync.Mutex
	of map[*inode]map[LockOwner]uint64
}

// note adds an owner that asks by an open file; false if there are too many.
func (s *lockOwners) note(f *FS, o *openFile, owner LockOwner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of[o.node]
	if _, there := of[owner]; !there && !f.chargeLocks(1) {
		return false
	}
	if of == nil {
		of = make(map[LockOwner]uint64)
		s.of[o.node] = of
	}
	of[owner] = o.ID()
	return true
}

// take removes the owners of a node that are to go.
func (s *lockOwners) take(f *FS, n *inode, goes func(owner LockOwner, fh uint64) bool) (list []LockOwner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of[n]
	for owner, fh := range of {
		if goes(owner, fh) {
			list = append(list, owner)
			delete(of, owner)
		}
	}
	f.chargeLocks(-int64(len(list)))
	if of != nil && len(of) == 0 {
		delete(s.of, n)
	}
	return list
}

// closing drops what the owner that closes an open file has, as close(2) does (fcntl(2)).
func (f *FS) closing(ctx context.Context, o *openFile, owner uint64) {
	it := LockOwner{client: f, number: owner}
	dropLocks(ctx, o, f.owners.take(f, o.node, func(owner LockOwner, _ uint64) bool { return owner == it }))
}

// closedLocks drops what is left of an open file's locks at its end.
func (f *FS) closedLocks(o *openFile) {
	dropLocks(context.Background(), o, f.owners.take(f, o.node, func(_ LockOwner, fh uint64) bool { return fh == o.ID() }))
}

// chargeLocks counts n more locks and owners of locks, or less; false if there are too many.
func (f *FS) chargeLocks(n int64) bool {
	if f == nil {
		return true
	}
	if f.locked.Add(n) > f.opts.MaxLocks && n > 0 {
		f.locked.Add(-n)
		return false
	}
	return true
}
