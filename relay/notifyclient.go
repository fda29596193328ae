package relay

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxTold bounds the notifications that wait for the client.
const maxTold = 8192

// teller passes the program's notifications on, on a goroutine of its own: the client's kernel may wait in one for a request
// that is under way to the program, whose reply the receiving goroutine has to take.
type teller struct {
	mu      sync.Mutex // guards the following; a leaf
	to      fuse.Notifier
	waiting []told
	running bool
	lost    bool // some were: the client is told at the end that anything may have changed
}

// told is one notification, with the client's numbers.
type told struct {
	code fp.NotifyCode
	body []byte
}

// Connect says where the program's notifications go beside: to the client's kernel, or to an events.FS that tells a guest's
// helper. nil is nowhere, as at the beginning. If there are more than it takes, or the program was started again and may have
// missed changes, it gets INC_EPOCH: anything may have changed. What Options.Notified says holds all the same: a notification may
// overtake the reply to a request that was under way.
func (fs *FS) Connect(to fuse.Notifier) {
	fs.teller.mu.Lock()
	defer fs.teller.mu.Unlock()
	fs.teller.to = to
}

// tell passes a notification on, if somebody takes it and the client has what it is about.
func (fs *FS) tell(l *link, code fp.NotifyCode, body []byte) {
	t := &fs.teller
	t.mu.Lock()
	nobody := t.to == nil
	t.mu.Unlock()
	if nobody {
		return
	}
	own, ok := fs.ownNumbers(l, code, body)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.waiting); n > 0 && t.waiting[n-1].code == code && bytes.Equal(t.waiting[n-1].body, own) {
		return
	} else if n >= maxTold {
		t.lost = true
		return
	}
	t.waiting = append(t.waiting, told{code, own})
	fs.beginTelling()
}

// beginTelling has what waits be sent. teller.mu is held.
func (fs *FS) beginTelling() {
	if t := &fs.teller; !t.running {
		t.running = true
		go fs.tellAll()
	}
}

// tellLost tells the client that anything may have changed, if the program has ever notified.
func (fs *FS) tellLost() {
	t := &fs.teller
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.to == nil || fs.most.Load() == 0 {
		return
	}
	t.lost = true
	fs.beginTelling()
}

// tellAll sends what waits.
func (fs *FS) tellAll() {
	t := &fs.teller
	for {
		t.mu.Lock()
		if len(t.waiting) == 0 && t.lost {
			t.waiting, t.lost = append(t.waiting, told{code: fp.NotifyIncEpoch}), false
		}
		if len(t.waiting) == 0 || t.to == nil {
			t.waiting, t.running, t.lost = nil, false, false
			t.mu.Unlock()
			return
		}
		next, to := t.waiting[0], t.to
		t.waiting = t.waiting[1:]
		t.mu.Unlock()
		_ = to.Notify(next.code, next.body) // a client that does not get it asks again soon
	}
}

// ownNumbers is the body of a notification with the client's numbers instead of the program's; false if the client has no such
// node, or the body is malformed.
func (fs *FS) ownNumbers(l *link, code fp.NotifyCode, body []byte) (own []byte, ok bool) {
	own = bytes.Clone(body)
	switch code {
	case fp.NotifyInvalInode:
		if len(body) != fp.Size[fp.NotifyInvalInodeOut]() {
			l.lie("a malformed notification")
			return nil, false
		}
		return own, fs.renumber(l, &(*fp.NotifyInvalInodeOut)(pointer(own)).Ino, false)
	case fp.NotifyInvalEntry:
		n := fp.Size[fp.NotifyInvalEntryOut]()
		if len(body) < n || !isOneName(body[n:], (*fp.NotifyInvalEntryOut)(pointer(own)).NameLen) {
			l.lie("a malformed notification")
			return nil, false
		}
		v := (*fp.NotifyInvalEntryOut)(pointer(own))
		v.Flags &= fp.ExpireOnly
		return own, fs.renumber(l, &v.Parent, true)
	case fp.NotifyDelete:
		n := fp.Size[fp.NotifyDeleteOut]()
		if len(body) < n || !isOneName(body[n:], (*fp.NotifyDeleteOut)(pointer(own)).NameLen) {
			l.lie("a malformed notification")
			return nil, false
		}
		v := (*fp.NotifyDeleteOut)(pointer(own))
		return own, fs.renumber(l, &v.Parent, true) && fs.renumber(l, &v.Child, false)
	case fp.NotifyIncEpoch: // kernels before Linux 6.16 do not know it
		return nil, true
	}
	return nil, false // PRUNE only makes room
}

// renumber replaces the program's number of a node, or of a directory, by the client's; false if the client does not have it.
func (fs *FS) renumber(l *link, id *uint64, dir bool) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.byID[*id]
	if n == nil || n.ID() != fp.RootID && n.epoch.Load() != l.epoch || dir && n.kind != unix.S_IFDIR {
		return false
	}
	*id = n.ID()
	return true
}

// isOneName reports whether b is a name of n bytes and the zero byte behind it.
func isOneName(b []byte, n uint32) bool {
	return n > 0 && n <= nameMax && uint64(len(b)) == uint64(n)+1 && bytes.IndexByte(b, 0) == int(n) &&
		bytes.IndexByte(b, '/') < 0 && !isDot(b[:n])
}
