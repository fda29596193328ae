package passthrough

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// Two requests that change the same name can be under way at the same time. If the process dies, a successor sees what one of
// them has done, and can't know which: of two UNLINKs that have noted their intents both would have removed the name, and an
// exchange that is served again might undo another one's. So requests that change the same thing take turns: the next one
// begins when the reply of the one before is noted (fuse.PhaseDone). What a successor finds was then done by the one request
// that has noted its intent, or by somebody else on the host. It takes the turn before anything is served, see left.
//
// A turn is for a name in a directory, an attribute of a node, or the end of a file. A request holds its turns as
// long as its cell is under way, so there is nothing to give back.

// turnSlots is how many turns there are. Two keys with the same slot wait for each other.
const turnSlots = 512

// mostTurn is how long a request waits for its turn at most. The other one may hang on a file system of the host, or it was
// left by a process that died and is not served again. Then both are under way, and what is ambiguous after a death in this
// moment is decided as if one of them came from the host.
const mostTurn = 2 * time.Second

// turnKey stands for a name, an attribute or the end of a file. Two of them may have the same key. 0 is none.
type turnKey uint32

const turnKeyBits = 31

// turnOf is the key of a name in a directory, or of an attribute of a node. Keys are noted in evidence: they must not change from
// one version to the next.
func turnOf(node uint64, name fp.Name) turnKey {
	return turnKey(nodes.HashName(node, name.Bytes())>>(64-turnKeyBits)) | 1
}

// turnOfEnd is the key of the end of a node's file. No attribute has such a name.
func turnOfEnd(node uint64) turnKey { return turnOf(node, fp.Name{0}) }

// turns are the turns of all requests. The zero value is ready; it is used only with a ledger.
type turns struct {
	slots [turnSlots]turn
	pause func(n int)   // waits a moment, for the n-th time; nil is pauseTurn
	most  time.Duration // 0 is mostTurn
}

// turn is one slot.
type turn struct {
	mu    sync.Mutex // a leaf
	cell  *fuse.Cell // of the last request that had it
	order uint64     // of that request: the cell may be another's by now
	key   turnKey    // of that request
	takes bool       // that request takes a name away
}

func (t *turns) slot(k turnKey) *turn { return &t.slots[(k>>1)%turnSlots] }

// take waits until it is r's turn. takes says that r takes a name away. made reports whether another request may have
// made this very name since the process began, and none has taken it away since. The errno is 0 or WouldBlock: the thread of
// a queue does not wait for long. The other request may be one of the same queue, on another thread, and its reply is noted by
// this thread.
func (t *turns) take(r *server.Request, k turnKey, takes bool) (made bool, errno unix.Errno) {
	if r.Cell == nil {
		return false, 0
	}
	s := t.slot(k)
	s.mu.Lock()
	if s.cell != nil && s.cell != r.Cell && s.cell.UnderWay(s.order) && !t.wait(s, r.MayWait) {
		s.mu.Unlock()
		return false, server.WouldBlock
	}
	made = s.key == k && !s.takes
	s.cell, s.order, s.key, s.takes = r.Cell, r.Cell.Order(), k, takes
	s.mu.Unlock()
	return made, 0
}

// takeBoth is take for the two names of a RENAME, which takes away the first. The order is the same for all.
func (t *turns) takeBoth(r *server.Request, from, to turnKey) (errno unix.Errno) {
	if t.slot(from) == t.slot(to) || (from>>1)%turnSlots < (to>>1)%turnSlots {
		if _, errno = t.take(r, from, true); errno == 0 {
			_, errno = t.take(r, to, false)
		}
		return errno
	}
	if _, errno = t.take(r, to, false); errno == 0 {
		_, errno = t.take(r, from, true)
	}
	return errno
}

// wait waits until the request that has a slot is done, with the slot locked at the beginning and at the end. Without mayWait it
// waits for some microseconds only. It returns false if they were not enough.
func (t *turns) wait(s *turn, mayWait bool) bool {
	pause, most := t.pause, t.most
	if pause == nil {
		pause = pauseTurn
	}
	if most == 0 {
		most = mostTurn
	}
	end := time.Now().Add(most)
	for n := 0; s.cell.UnderWay(s.order) && time.Now().Before(end); n++ {
		if n == shortPauses && !mayWait {
			return false
		}
		s.mu.Unlock()
		pause(n)
		s.mu.Lock()
	}
	return true
}

// shortPauses is how many pauses do not sleep.
const shortPauses = 8

// pauseTurn gives the other request time: most take some microseconds.
func pauseTurn(n int) {
	if n < shortPauses {
		runtime.Gosched()
		return
	}
	time.Sleep(min(time.Duration(n)*5*time.Microsecond, time.Millisecond))
}

// left gives a request that a process has left when it died the turns that it had. It is called before anything is served.
func (t *turns) left(c *fuse.Cell) {
	_, e, ok := c.Intent()
	if !ok {
		return
	}
	var keys [2]turnKey
	switch c.Opcode() {
	case fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpCreate, fp.OpLink, fp.OpUnlink, fp.OpRmdir,
		fp.OpSetxattr, fp.OpRemovexattr, fp.OpWrite, fp.OpFallocate:
		keys[0] = turnKey(e[turnWord])
	case fp.OpRename, fp.OpRename2:
		keys[0], keys[1] = turnsIn(e[renameKnown])
	}
	for _, k := range keys {
		if k != 0 {
			s := t.slot(k)
			s.cell, s.order, s.key = c, c.Order(), k
		}
	}
}

// turnWord is the word of evidence with the key of the turn, of all requests but RENAME.
const turnWord = fileWords

// turnsWord is what the last word of a RENAME's evidence has of its turns.
func turnsWord(from, to turnKey) uint64 { return uint64(from)<<2 | uint64(to)<<(2+turnKeyBits) }

func turnsIn(word uint64) (from, to turnKey) {
	const mask = 1<<turnKeyBits - 1
	return turnKey(word >> 2 & mask), turnKey(word >> (2 + turnKeyBits) & mask)
}
