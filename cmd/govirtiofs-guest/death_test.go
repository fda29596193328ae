package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// TestIntegrationDeath: the serving process is killed 100 times in all while four threads create, append, rename
// and remove. Each operation has the result that it must have: the guest only loses its connections. With
// GOVIRTIOFS_LONG=1 it is 1,000 times.
func TestIntegrationDeath(t *testing.T) {
	deaths := 50
	if os.Getenv("GOVIRTIOFS_LONG") != "" {
		deaths = 500
	}
	for _, args := range [][]string{{"--sandbox=none"}, {"--events=auto"}} {
		t.Run(args[0], func(t *testing.T) { testDeath(t, deaths, args...) })
	}
}

func testDeath(t *testing.T, deaths int, args ...string) {
	h := newHost(t, append(args, "--recovery=auto")...)
	p, result := startModel(t, h)
	progress := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			t.Fatalf("%v\n%s", err, h.log)
		}
		return n
	}
	total := 0
	for i := range deaths {
		for before := progress(); total < before+20; total = progress() {
		}
		if i == deaths/2 { // an upgrade in between, to the same program
			if err := h.cmd.Process.Signal(unix.SIGUSR2); err != nil {
				t.Fatal(err)
			}
		} else if err := unix.Kill(worker(t, h), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.wait(fmt.Sprintf("worker %d serves", i+2))
	}
	for before := progress(); progress() < before+100; {
	}
	p.end()
	checkModels(t, h, result)
	if strings.Contains(h.log.String(), "EIO") {
		t.Error(h.log)
	}
	t.Logf("about %d operations, %d deaths", total, deaths)
	h.stop()
}

// worker is the serving process.
func worker(t *testing.T, h *host) int {
	t.Helper()
	pid := 0
	eventually(t, "the serving process", func() bool {
		children := daemontest.Children(t, h.cmd.Process.Pid)
		if len(children) > 0 {
			pid = children[0]
		}
		return len(children) == 1
	})
	return pid
}
