package keeper

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Store keeps descriptors for the next start of the whole service, as service managers do. A descriptor
// has a name, that of its key.
type Store interface {
	// Put stores a copy of fd, and Remove closes what has the name. They do not wait: unix.EAGAIN says
	// that it is to be tried again later. Put is not called with a name that is stored.
	Put(name string, fd int) error
	Remove(name string) error
	// Wait waits until Put and Remove may succeed again, for a limited time.
	Wait()
	// Settled waits until everything is stored, for a limited time.
	Settled()
}

// saver puts into a Store what the table holds, on a goroutine of its own.
type saver struct {
	store    Store
	table    *table
	patience time.Duration // see savePatience

	mu     sync.Mutex
	dirty  map[Key]bool
	stored map[Key]bool
	pins   bool          // pins are stored, too
	wake   chan struct{} // has room for one
	idle   *sync.Cond    // nothing is dirty
	busy   bool
	closed bool // nothing changes the store any more
}

// newSaver starts saving. stored is what the store has already.
func newSaver(s Store, t *table, stored []Key) *saver {
	v := &saver{store: s, table: t, patience: savePatience, dirty: map[Key]bool{}, stored: map[Key]bool{}, wake: make(chan struct{}, 1)}
	v.idle = sync.NewCond(&v.mu)
	for _, k := range stored {
		v.stored[k] = true
	}
	for _, k := range t.keys() { // what the table had before
		if !v.stored[k] {
			v.changed(k)
		}
	}
	go v.run()
	return v
}

// changed notes that the table has another descriptor for a key, or none. It does not wait.
func (v *saver) changed(k Key) {
	if v == nil || k.Kind == KindListener {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed || k.Kind.isPin() && !v.pins && !v.stored[k] {
		return
	}
	v.dirty[k] = true
	v.wakeUp()
}

func (v *saver) wakeUp() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

func (v *saver) run() {
	for range v.wake {
		for {
			v.mu.Lock()
			k, ok := v.one()
			v.busy = ok
			if !ok {
				v.idle.Broadcast()
			}
			v.mu.Unlock()
			if !ok {
				break
			}
			if !v.save(k) {
				v.store.Wait()
			}
		}
	}
}

func (v *saver) one() (Key, bool) {
	for k := range v.dirty {
		return k, true
	}
	return Key{}, false
}

// save brings the store to the state of the table for a key. It returns false if that has to be tried
// again.
func (v *saver) save(k Key) bool {
	v.mu.Lock()
	delete(v.dirty, k)
	stored := v.stored[k]
	v.mu.Unlock()
	name := k.String()
	var err error
	if stored {
		if err = v.store.Remove(name); err == nil {
			v.set(k, false)
		}
	}
	if err == nil {
		var has bool
		has, err = v.table.with(k, func(fd int) error { return v.store.Put(name, fd) })
		if has && err == nil {
			v.set(k, true)
		}
	}
	if errors.Is(err, unix.EAGAIN) {
		v.changed(k)
		return false
	}
	return true // another error is for good: the service manager is gone
}

func (v *saver) set(k Key, stored bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if stored {
		v.stored[k] = true
	} else {
		delete(v.stored, k)
	}
}

// savePatience is how long the last descriptors may take to be stored.
const savePatience = 5 * time.Second

// finish stores everything, also pins, and waits until that is done. With keep unset it removes
// everything instead.
func (v *saver) finish(keep bool) {
	if v == nil {
		return
	}
	v.mu.Lock()
	v.pins = keep
	v.mu.Unlock()
	if !keep {
		v.table.closeAll()
	}
	for _, k := range v.table.keys() {
		if k.Kind.isPin() {
			v.changed(k)
		}
	}
	stop := time.AfterFunc(v.patience, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.closed = true // also what is being saved now is not tried again
		clear(v.dirty)
		v.idle.Broadcast()
	})
	defer stop.Stop()
	v.mu.Lock()
	for v.busy || len(v.dirty) > 0 {
		v.idle.Wait()
	}
	v.closed = true
	v.mu.Unlock()
	v.store.Settled()
}

// Restore gives the keeper a descriptor that a Store has kept since the last start of the
// service, by name. A name that is not a key is refused; the caller then still owns fd. It is
// called before Run.
func (k *Keeper) Restore(name string, fd int) error {
	key, ok := ParseKey(name)
	if !ok || key.Kind == KindListener {
		return fmt.Errorf("keeper: %q is no name of what it holds", name)
	}
	unix.CloseOnExec(fd)
	k.restored = append(k.restored, key)
	return k.table.put(key, fd)
}
