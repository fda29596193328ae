package virtiofs

import (
	"context"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// forgetful is a keeper that keeps nothing.
type forgetful struct{}

func (forgetful) Keep(vhostuser.Descriptor, int) error { return nil }
func (forgetful) Drop(vhostuser.Descriptor)            {}

// endedHandler counts the sessions that were ended.
type endedHandler struct {
	sumHandler
	ended int
}

func (h *endedHandler) Disconnected() { h.ended++ }

// TestResumeFails: when a front-end's connection can't be resumed, its session ends, but not that of a guest that is
// waited for.
func TestResumeFails(t *testing.T) {
	for _, waits := range []bool{false, true} {
		l, err := ledger.Create()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		area, err := l.Area(ledger.AreaConn)
		if err != nil {
			t.Fatal(err)
		}
		if err := area.Store([]byte{99}); err != nil {
			t.Fatal(err)
		}
		h := &endedHandler{}
		d, err := New(h, Options{RequestQueues: 1, Recovery: &Recovery{Ledger: l, Keeper: forgetful{}}, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		if waits {
			d.absent.left, d.absent.back = &vhostuser.Left{}, make(chan struct{})
		}
		ours, _ := socketpair.New(t)
		if err := d.Resume(context.Background(), ours, Inherited{}); err == nil {
			t.Error("a connection is resumed from nonsense")
		}
		if want := map[bool]int{false: 1, true: 0}[waits]; h.ended != want {
			t.Errorf("waits %v: %d sessions were ended, want %d", waits, h.ended, want)
		}
	}
}
