package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/treemodel"
)

// cutter stands in the place of a VMM: it passes connections on, and can cut them.
type cutter struct {
	to   string
	mu   sync.Mutex
	live map[net.Conn]bool
	cuts int
}

func (c *cutter) serve(l net.Listener) {
	for {
		a, err := l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", c.to)
		if err != nil {
			_ = a.Close()
			continue
		}
		c.mu.Lock()
		c.live[a], c.live[b] = true, true
		c.mu.Unlock()
		for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(p[0], p[1])
				_ = p[0].Close()
				_ = p[1].Close()
				c.mu.Lock()
				delete(c.live, p[0])
				c.mu.Unlock()
			}()
		}
	}
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.live {
		if rand.IntN(3) > 0 {
			_ = conn.Close()
		}
	}
	c.cuts++
}

// modelWorkload changes a mounted directory from several threads until its standard input ends. It
// says how many operations it has done, and leaves what must be in the directory in a file.
func modelWorkload(command string) error {
	var o struct{ Mount, Dir, Result string }
	if err := json.Unmarshal([]byte(command), &o); err != nil {
		return err
	}
	if err := shellIn(o.Mount); err != nil {
		return err
	}
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	var done atomic.Int64
	var models []treemodel.Model
	ended := make(chan error, 1)
	go func() {
		var err error
		models, err = treemodel.Run(o.Dir, stop.Load, &done)
		ended <- err
	}()
	out := bufio.NewWriter(os.Stdout)
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			running = false
		case <-time.After(20 * time.Millisecond):
			fmt.Fprintln(out, done.Load())
			_ = out.Flush()
		}
	}
	if err := treemodel.Check(o.Dir, models); err != nil {
		return fmt.Errorf("in the guest: %w", err)
	}
	if err := shellIn("umount " + o.Dir); err != nil {
		return err
	}
	b, err := json.Marshal(models)
	if err != nil {
		return err
	}
	return os.WriteFile(o.Result, b, 0o600)
}

// TestIntegrationCut: the connections are cut 100 times while four threads create, append,
// rename and remove. Each operation has the result that it must have, and the trees are as a model
// of them in the guest and on the host.
func TestIntegrationCut(t *testing.T) {
	h := newHost(t)
	front, result := filepath.Join(h.dir, "front"), filepath.Join(h.dir, "result")
	l, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := &cutter{to: h.socket, live: map[net.Conn]bool{}}
	go c.serve(l)
	command, err := json.Marshal(map[string]string{"Dir": h.mnt(), "Result": result,
		"Mount": fmt.Sprintf("%s mount -o channels=3,token=%s unix:%s %s", guestProgram, h.token, front, h.mnt())})
	if err != nil {
		t.Fatal(err)
	}
	p := startInner(t, "model", string(command))
	progress := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const cuts = 100
	total := 0
	for c.cuts < cuts {
		before := progress()
		for total = before; total < before+10; total = progress() {
		}
		c.cut()
	}
	p.end()
	checkModels(t, h, result)
	t.Logf("about %d operations, %d cuts", total, c.cuts)
	h.stop()
}

// TestIntegrationRestart: the daemon is restarted 5 times while four threads create, append, rename and
// remove. With a file for its state the guest only waits.
func TestIntegrationRestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	h := newHost(t, "--vsock-state", state)
	result := filepath.Join(h.dir, "result")
	command, err := json.Marshal(map[string]string{"Dir": h.mnt(), "Result": result,
		"Mount": fmt.Sprintf("%s mount -o channels=2,token=%s unix:%s %s", guestProgram, h.token, h.socket, h.mnt())})
	if err != nil {
		t.Fatal(err)
	}
	p := startInner(t, "model", string(command))
	progress := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 5 {
		for before := progress(); progress() < before+100; {
		}
		h.stop()
		if !strings.Contains(h.log.String(), "is saved") {
			t.Fatalf("the session is not saved:\n%s", h.log)
		}
		h.start("--vsock-state", state)
	}
	for before := progress(); progress() < before+100; {
	}
	p.end()
	checkModels(t, h, result)
	h.stop()
	if st, err := os.Stat(state); err != nil || st.Size() != 0 {
		t.Errorf("a session that has ended is saved: %v, %v", st, err)
	}
}

// checkModels compares what is on the host with what a guest has left.
func checkModels(t *testing.T, h *host, result string) {
	t.Helper()
	b, err := os.ReadFile(result)
	var models []treemodel.Model
	if err == nil {
		err = json.Unmarshal(b, &models)
	}
	if err != nil || len(models) == 0 {
		t.Fatalf("%v, %d models\n%s", err, len(models), h.log)
	}
	if err := treemodel.Check(h.share, models); err != nil {
		t.Errorf("on the host: %v", err)
	}
}
