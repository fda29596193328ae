package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdkinds"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// forge sends what no worker sends.
func forge(what string) error {
	file, err := fakeFile("forged")
	if err != nil {
		return err
	}
	good := (&message{op: opKeep, key: Node(66), fd: file}).marshal()
	changed := func(at int, v uint16) []byte {
		b := append([]byte(nil), good...)
		binary.LittleEndian.PutUint16(b[at:], v)
		return b
	}
	raw := func(b []byte, fds ...int) error {
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		return unix.Sendmsg(3, b, oob, nil, 0)
	}
	many := make([]int, 200)
	for i := range many {
		many[i] = file
	}
	switch what {
	case "short":
		return raw(good[:messageSize-1], file)
	case "long":
		return raw(append(good, 0), file)
	case "empty-with-descriptor":
		return raw(nil, file)
	case "version":
		return raw(changed(0, Protocol+1), file)
	case "unknown":
		return raw(changed(2, 99), file)
	case "keepers":
		return raw(changed(2, uint16(opKept)), file)
	case "begin":
		return raw(changed(2, uint16(opBegin)))
	case "end":
		return raw(changed(2, uint16(opEnd)))
	case "kind":
		return raw(changed(4, uint16(kinds)), file)
	case "no-kind":
		return raw(changed(4, 0), file)
	case "no-descriptor":
		return raw(good)
	case "two":
		return raw(good, file, file)
	case "many":
		return raw(good, many...)
	case "drop-with-descriptor":
		return raw(changed(2, uint16(opDrop)), file)
	case "serving-with-descriptor":
		return raw(changed(2, uint16(opServing)), file)
	case "report":
		b := changed(2, uint16(opServing))
		for i := 8; i < messageSize; i++ {
			b[i] = 0xff
		}
		return raw(b)
	case "own-end": // of the channel, which never is at its end then
		return raw((&message{op: opKeep, key: Node(67)}).marshal(), 3)
	case "listener", "stream", "ledger", "accepted":
		k := map[string]Key{"listener": Listener(), "stream": Stream(), "ledger": Ledger().Of(1), "accepted": Accepted()}[what]
		return raw((&message{op: opKeep, key: k}).marshal(), file)
	case "empty":
		return raw(nil)
	}
	return fmt.Errorf("what is %s?", what)
}

// TestForged: whatever a worker sends, it costs the keeper nothing, and what comes after it counts.
func TestForged(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.clock.after = at(nil) })
	for n, what := range []string{
		"short", "long", "empty-with-descriptor", "version", "unknown", "keepers", "begin", "end", "kind", "no-kind",
		"no-descriptor", "two", "many", "drop-with-descriptor", "serving-with-descriptor", "report", "own-end", "listener", "stream", "ledger", "accepted", "empty",
	} {
		f := r.serving()
		before := openFiles(t)
		for range 100 {
			f.do("forge " + what)
			if what == "empty" || what == "own-end" {
				break // the first ends what the keeper hears of this worker; the second is held
			}
		}
		if what != "empty" {
			f.do(fmt.Sprintf("keep open-%d-0 %s", n, what))
			r.until(what, func() bool { return r.k.table.has(Open(uint64(n))) })
			// They are closed by other goroutines.
			r.until(what+": the descriptors are closed", func() bool { return openFiles(t)-before <= 2 })
		}
		if r.k.table.has(Node(66)) {
			t.Errorf("%s was taken for a message", what)
		}
		if r.k.table.has(Listener()) || r.k.table.has(Stream()) || r.k.table.has(Accepted()) {
			t.Errorf("%s: a worker has the keeper hold what is not its own", what)
		}
		f.do("die")
		f = r.serving()
		if what != "empty" {
			f.want(fmt.Sprintf("content open-%d-0", n), what)
		}
		f.do("die")
	}
	r.serving()
	r.signals <- unix.SIGTERM
	r.end()
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestLimit: a worker has as many descriptors held as it was told, and one that does not care has twice as
// many held.
func TestLimit(t *testing.T) {
	r := newRig(t, nil)
	f := r.serving()
	f.want("keepmany node-0-0 0 100", "100")
	if got := (func() string { _, _ = fmt.Fprintln(f.in, "keep open-1-0 x"); s, _ := f.out.ReadString('\n'); return s })(); got !=
		"ok error keeper: the keeper holds as many descriptors as it can: 100\n" {
		t.Errorf("%q", got)
	}
	f.do("keep node-99-0 in place of another")
	f.do("drop node-5-0")
	f.do("keep open-1-0 x")
	f.do("die")
	f = r.next()
	f.want("receive", "2 100 false 100")
	f.want("content open-1-0", "x")
	for n := range 1000 {
		fd, err := unix.Dup(0)
		if err == nil {
			_ = r.k.table.put(Lock(1, uint64(n)), fd)
		}
	}
	if n := len(r.k.table.keys()); n != 200 {
		t.Errorf("%d descriptors are held", n)
	}
	r.signals <- unix.SIGTERM
	r.end()
}

// TestIntegrationDeadServer: files whose server does not answer hold up nothing, and take no more than a few
// threads.
func TestIntegrationDeadServer(t *testing.T) {
	guest.NeedRoot(t)
	dead, release := fdkinds.Dead(t)
	c := closer{room: closers}
	before := threads(t)
	for range 200 {
		fd, err := unix.Dup(dead.FD)
		if err != nil {
			t.Fatal(err)
		}
		c.close(fd)
	}
	if n := c.waiting(); n != 200 {
		t.Errorf("%d are not closed", n)
	}
	if more := threads(t) - before; more > 100 { // of 200, and the runtime starts some for itself
		t.Errorf("%d threads more", more)
	}
	fd, err := fakeFile("another")
	if err != nil {
		t.Fatal(err)
	}
	c.close(fd) // waits with the others, and is counted
	release()
	for deadline := time.Now().Add(patient); c.waiting() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d are never closed", c.waiting())
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the last one: %v", err)
	}
}

func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// TestFlood: somebody to whom a worker has given its channel sends messages without end. That keeps the keeper from nothing
// when the worker is dead, and what the worker has sent before counts.
func TestFlood(t *testing.T) {
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	k := New(Options{Recover: true, Limit: 100})
	w := &worker{channel: ours, read: make(chan struct{})}
	file, err := fakeFile("kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := send(int(theirs.Fd()), &message{op: opKeep, key: Open(1), fd: file}); err != nil {
		t.Fatal(err)
	}
	var floods sync.WaitGroup
	for range 8 {
		floods.Go(func() {
			for {
				err := send(int(theirs.Fd()), &message{op: opKeep, key: Open(2), fd: file}) // takes longer to receive than to send
				if errors.Is(err, unix.EPIPE) {
					return
				}
			}
		})
	}
	go w.listen(k)
	time.Sleep(10 * time.Millisecond)
	drained := make(chan struct{})
	go func() { w.drain(k); close(drained) }()
	select {
	case <-drained:
	case <-time.After(patient):
		t.Fatal("the keeper hears messages for ever")
	}
	floods.Wait()
	if !k.table.has(Open(1)) {
		t.Error("what was to be kept is lost")
	}
	k.table.closeAll()
	_, _ = theirs.Close(), unix.Close(file)
}
