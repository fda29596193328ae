package keeper

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// table are the descriptors that the keeper holds.
type table struct {
	limit  int // how many workers may have it hold
	closer closer
	saver  *saver // nil without a Store

	mu sync.Mutex // a leaf; nothing that can wait happens under it
	m  map[Key]int
}

func newTable(limit int) *table {
	return &table{limit: limit, m: map[Key]int{}, closer: closer{room: closers}}
}

var errFull = errors.New("as many descriptors as there may be")

// put holds fd, which is the table's now, in place of what has the key.
func (t *table) put(k Key, fd int) error {
	t.mu.Lock()
	old, had := t.m[k]
	if !had && len(t.m)+t.closer.waiting() >= 2*t.limit {
		t.mu.Unlock()
		t.closer.close(fd)
		return errFull
	}
	t.m[k] = fd
	t.mu.Unlock()
	t.saver.changed(k)
	if had {
		t.closer.close(old)
	}
	return nil
}

func (t *table) drop(k Key) {
	t.mu.Lock()
	fd, had := t.m[k]
	delete(t.m, k)
	t.mu.Unlock()
	if had {
		t.saver.changed(k)
		t.closer.close(fd)
	}
}

// with calls f with a descriptor that stays open meanwhile. It returns false if there is none. f must
// not wait.
func (t *table) with(k Key, f func(fd int) error) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fd, ok := t.m[k]
	if !ok {
		return false, nil
	}
	return true, f(fd)
}

func (t *table) has(k Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.m[k]
	return ok
}

// hasClient reports whether there is anything of a front-end, or of a guest that comes over a stream.
func (t *table) hasClient() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.m {
		if k.Kind != KindListener {
			return true
		}
	}
	return false
}

// keys are those that are held now: pins last, the others in the order of their kinds.
func (t *table) keys() []Key {
	t.mu.Lock()
	keys := make([]Key, 0, len(t.m))
	for k := range t.m {
		keys = append(keys, k)
	}
	t.mu.Unlock()
	slices.SortFunc(keys, func(a, b Key) int {
		for _, d := range []int{int(a.Kind) - int(b.Kind), cmp(a.ID, b.ID), cmp(a.Sub, b.Sub), int(a.Share) - int(b.Share)} {
			if d != 0 {
				return d
			}
		}
		return 0
	})
	return keys
}

func cmp(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// closeAll closes everything, without waiting for files whose server does not answer.
func (t *table) closeAll() {
	for _, k := range t.keys() {
		t.drop(k)
	}
}

// countKinds says how many there are of each kind.
func countKinds(keys []Key) string {
	var parts []string
	for kind := Kind(1); kind < kinds; kind++ {
		n := 0
		for _, k := range keys {
			if k.Kind == kind {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// closers is how many threads wait for closing at most.
const closers = 4

// closer closes descriptors. To close a file whose server does not answer may take for ever, and each
// such call takes a thread, so there is a limit: what comes later waits in a queue, and is counted by
// the table like what it holds.
type closer struct {
	mu    sync.Mutex
	room  int // how many more goroutines may close
	queue []int
	busy  int
}

// close closes fd, now or later. It does not wait.
func (c *closer) close(fd int) {
	info, err := fdstat.Stat(fd)
	if err != nil || info.Kind() != unix.S_IFREG && info.Kind() != unix.S_IFDIR {
		_ = unix.Close(fd)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, fd)
	if c.room > 0 {
		c.room--
		go c.work()
	}
}

func (c *closer) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		fd := c.queue[0]
		c.queue = c.queue[1:]
		c.busy++
		c.mu.Unlock()
		_ = unix.Close(fd)
		c.mu.Lock()
		c.busy--
	}
	c.queue = nil
	c.room++
}

// waiting is how many descriptors are not closed yet.
func (c *closer) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) + c.busy
}
