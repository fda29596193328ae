package main

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/clientmodel"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationContest kills workers at random moments while clients change the same few names, attributes and files, with
// requests that look alike. Each reply, and what there is in the end, must be possible in some order of the requests that
// were under way at the same time.
func TestIntegrationContest(t *testing.T) {
	guest.NeedRoot(t)
	rounds, seed := howOften(1, 25), randomSeed(t)
	for _, queues := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(queues, " queues"), func(t *testing.T) {
			for round := range rounds { // a history that is not longer than it must be
				contest(t, queues, 15, seed+uint64(round)*100)
			}
		})
	}
}

func contest(t *testing.T, queues, kills int, seed uint64) {
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+socket, "--xattr")
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: queues})
	if err != nil {
		t.Fatal(err)
	}
	c := handshake(t, f)
	var served atomic.Int64
	x, err := clientmodel.NewContest(c, &served)
	if err != nil {
		t.Fatal(err)
	}
	us := &users{}
	for i := range 2 + queues {
		us.wg.Go(func() {
			if err := x.Run(seed+uint64(i), us.stop.Load); err != nil {
				us.stop.Store(true)
			}
		})
	}
	killWorkers(t, d.cmd.Process.Pid, kills, seed, us, &served)
	us.stop.Store(true)
	us.wg.Wait()
	if err := x.Check(share); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	c.Close()
	d.wantStatus(exitOK)
	t.Logf("%d deaths, %d requests", kills, served.Load())
}
