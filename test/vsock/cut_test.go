package vsock

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/treemodel"
)

// maxCuts is how often a connection is cut.
const maxCuts = 100

// cutter passes the device's connections on to the daemon, and cuts them in the middle of what they carry.
type cutter struct {
	to   string
	cuts chan int // gets the number of each cut

	mu   sync.Mutex            // guards the following
	left int                   // bytes that pass until the next cut
	n    int                   // cuts
	all  map[net.Conn]net.Conn // by the other end
}

func (c *cutter) serve(l net.Listener) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("unix", c.to)
		if err != nil { // the daemon is away
			_ = from.Close()
			continue
		}
		c.mu.Lock()
		c.all[from], c.all[to] = to, from
		c.mu.Unlock()
		go c.pass(from, to)
		go c.pass(to, from)
	}
}

// pass copies from one to the other until one of them is closed.
func (c *cutter) pass(from, to net.Conn) {
	defer func() {
		_ = from.Close()
		_ = to.Close()
		c.mu.Lock()
		delete(c.all, from)
		c.mu.Unlock()
	}()
	b := make([]byte, 8<<10)
	for {
		n, err := from.Read(b)
		passes := c.count(n)
		if _, werr := to.Write(b[:passes]); err != nil || werr != nil || passes < n {
			return
		}
	}
}

// count counts n bytes, and returns how many of them pass: if it is time to cut, not all. About half of the other
// connections are cut as well.
func (c *cutter) count(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left -= n; c.left > 0 || c.n == maxCuts || n == 0 {
		return n
	}
	c.n++
	c.left = 32<<10 + rand.IntN(640<<10) // more than what is sent again, most often
	for conn := range c.all {
		if rand.IntN(4) == 0 {
			_ = conn.Close()
		}
	}
	c.cuts <- c.n
	return rand.IntN(n)
}

// underLoad mounts, and changes a tree until the host says that it is enough.
const underLoad = `
$BUSYBOX cp /run/model /run/bin/model; $BUSYBOX chmod 755 /run/bin/model
$guest mount -o token=/run/token,channels=3 vsock:2:1024 /mnt/s
/run/bin/model /mnt/s /mnt/s/stop /mnt/s/result
$BUSYBOX umount /mnt/s
for i in $($BUSYBOX seq 100); do $BUSYBOX ps | $BUSYBOX grep -q '[@]/run' || break; $BUSYBOX sleep 0.1; done
$BUSYBOX dmesg | $BUSYBOX grep govirtiofs-guest | $BUSYBOX tail -n 4
`

// TestIntegrationCut: a guest's connections are cut 100 times, and its daemon is restarted 4 times, while four
// threads create, append, rename and remove. The guest sees nothing of that, and nothing is lost or done twice.
func TestIntegrationCut(t *testing.T) {
	h := newHost(t, guest.UML, "")
	h.files[program(t, "model")] = "/run/model"
	// The first daemon's place is taken by the cutter, and another one is behind it.
	h.stop(t)
	behind, state := filepath.Join(h.dir, "behind"), filepath.Join(h.dir, "state")
	serve := func() {
		h.daemon, h.log = start(t, behind+"_1024", program(t, "govirtiofsd"), "--shared-dir", h.share, "--vsock-uds", behind, "--vsock-token", h.token, "--vsock-state", state)
	}
	serve()
	l, err := net.Listen("unix", h.uds()+"_1024")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := &cutter{to: behind + "_1024", left: 100 << 10, all: map[net.Conn]net.Conn{}, cuts: make(chan int, maxCuts)}
	go c.serve(l)
	var r guest.Result
	ended := make(chan struct{})
	go func() {
		r, err = guest.Run(context.Background(), guest.UML, h.options(guest.UML, underLoad))
		close(ended)
	}()
	for running := true; running; {
		select {
		case n := <-c.cuts:
			switch {
			case n == maxCuts:
				if err := os.WriteFile(filepath.Join(h.share, "stop"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			case n%20 == 0:
				h.stop(t)
				serve()
			}
		case <-ended:
			running = false
		}
	}
	said := h.output(t, r, err)
	if !strings.Contains(said, "operations") {
		t.Error(said)
	}
	b, err := os.ReadFile(filepath.Join(h.share, "result"))
	var models []treemodel.Model
	if err == nil {
		err = json.Unmarshal(b, &models)
	}
	if err == nil {
		err = treemodel.Check(h.share, models)
	}
	if err != nil || len(models) == 0 {
		t.Errorf("on the host: %v, %d directories\n%s", err, len(models), said)
	}
	if !strings.Contains(h.log.String(), "unmounted") {
		t.Errorf("the last daemon says\n%s", h.log)
	}
	t.Log(said)
}

// stop ends the daemon as its service manager does.
func (h *host) stop(t *testing.T) {
	t.Helper()
	_ = h.daemon.Process.Signal(syscall.SIGTERM)
	if err := h.daemon.Wait(); err != nil {
		t.Fatalf("the daemon at SIGTERM: %v\n%s", err, h.log)
	}
}
