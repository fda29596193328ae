package e2e

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestRequestsOfStoppedRings: requests that a driver offers while its rings are stopped are
// served when the rings start again. The device continues at the index at which it has
// stopped.
func TestRequestsOfStoppedRings(t *testing.T) {
	const queues, each = 2, 8
	s := open(t, defaults(), frontend.Options{Queues: queues})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, queues*each)
	for _, q := range s.Queues[1:] {
		for range each {
			go func() {
				_, err := s.DoOn(q, &frontend.Request{Op: fp.OpGetattr, NodeID: 1 << 40,
					Body: fp.Bytes(&fp.GetattrIn{}), Reply: fp.Size[fp.AttrOut]()})
				answers <- err
			}()
		}
	}
	for _, q := range s.Queues[1:] {
		for end := time.Now().Add(60 * time.Second); q.UnderWay() < each; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d of %d requests offered", q.UnderWay(), each)
			}
		}
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for range queues * each {
		if err := <-answers; !errors.Is(err, unix.ESTALE) {
			t.Errorf("a request that was offered meanwhile: %v, want ESTALE", err)
		}
	}
}
