package vhostuser

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// FuzzResume goes on with a connection whose numbers and descriptors were forged by the process
// that has left them. It is an error or a connection, and nothing is left of it at the end.
func FuzzResume(f *testing.F) {
	a := newAfterlife(f)
	ours, theirs := socketpair.New(f)
	c := NewConn(ours, newFakeDevice(), testLog())
	c.Recover(Recovery{Notes: a, Keeper: a})
	done := make(chan error, 1)
	go func() { done <- c.Serve(context.Background()) }()
	playAll(&frontEnd{t: f, sock: theirs})
	notes := a.left().Notes
	f.Add(notes, byte(0))
	f.Add(notes, byte(1))
	f.Add(notes[:20], byte(0))
	_ = theirs.Close()
	<-done
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		kinds := fuzzFDs()
		fds, goroutines, maps := openFDs(t), runtime.NumGoroutine(), testMappings(t)
		fuzzResume(t, b, int(which), kinds)
		for try := 0; openFDs(t) > fds || runtime.NumGoroutine() > goroutines || testMappings(t) > maps; try++ {
			if try == 20_000 {
				t.Fatalf("left behind: %d descriptors of %d, %d goroutines of %d, %d mappings",
					openFDs(t), fds, runtime.NumGoroutine(), goroutines, testMappings(t))
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func fuzzResume(t *testing.T, b []byte, which int, kinds []int) {
	d := &fuzzDevice{newFakeDevice()}
	ours, theirs := socketpair.New(t)
	defer theirs.Close()
	n := 0
	left := Inherited{Notes: b, Take: func(d Descriptor) (int, bool) {
		fd := kinds[0] // memory
		switch d.Kind {
		case DescriptorKick, DescriptorCall, DescriptorErr:
			fd = kinds[1]
		case DescriptorChannel:
			fd = kinds[2]
		case DescriptorOutbox:
			if box, err := newOutbox(); err == nil {
				defer box.close()
				fd = box.fd
			}
		}
		if n++; n == which { // one is of another kind
			fd = kinds[which%len(kinds)]
		}
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return own, err == nil
	}}
	c := NewConn(ours, d, testLog())
	none := nowhere{}
	c.Recover(Recovery{Notes: none, Keeper: none})
	if c.Resume(left) != nil {
		_ = ours.Close()
		return
	}
	_ = theirs.CloseWrite()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := c.Serve(ctx); ctx.Err() != nil {
		t.Fatal("Serve does not return:", err)
	}
}

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Store([]byte) error         { return nil }
func (nowhere) Keep(Descriptor, int) error { return nil }
func (nowhere) Drop(Descriptor)            {}
