package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// firstReply is the time in the line of a death.
var firstReply = regexp.MustCompile(`has died .* serves after (\S+) with .* first reply (\S+) after the death`)

// TestRecoveryTime measures how long a guest waits when a worker is killed that has 100,000 nodes, 1,000
// open files and 1 GiB of the guest's memory touched: from the signal to the first reply. GOVIRTIOFS_NODES and
// GOVIRTIOFS_GIB are other numbers of nodes and GiB, GOVIRTIOFS_DEATHS of deaths (60), and GOVIRTIOFS_LOG=debug
// lists the phases of each recovery. It asserts nothing about that, and runs with GOVIRTIOFS_LONG=1 only.
func TestRecoveryTime(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("takes a minute: set GOVIRTIOFS_LONG=1")
	}
	guest.NeedRoot(t)
	const opens = 1000
	level := cmp.Or(os.Getenv("GOVIRTIOFS_LOG"), "info")
	nodes, gib, kills := 100_000, 1, 60
	if n, err := strconv.Atoi(os.Getenv("GOVIRTIOFS_DEATHS")); err == nil && n > 0 {
		kills = n
	}
	if n, err := strconv.Atoi(os.Getenv("GOVIRTIOFS_GIB")); err == nil {
		gib = n
	}
	if n, err := strconv.Atoi(os.Getenv("GOVIRTIOFS_NODES")); err == nil {
		nodes = n
	}
	dir, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=0"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	d := startDaemon(t, nil, "--socket-path", socket, "--shared-dir", dir, "--log-level="+level,
		fmt.Sprintf("--num-request-queues=%d", max(gib, 1)))
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: max(gib, 1), QueueSize: 1024, Slots: 1024, Data: 1 << 20, Indirect: true})
	if err != nil {
		t.Fatal(err)
	}
	c := handshake(t, f)
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range nodes {
		_, err := c.Mknod(fp.RootID, fmt.Sprintf("f%06d", i), unix.S_IFREG|0o644, 0)
		must(err)
	}
	for range opens {
		_, err := c.Open(2, unix.O_RDWR)
		must(err)
	}
	big, err := c.Create(fp.RootID, "big", unix.O_RDWR, 0o644)
	must(err)
	must(os.Truncate(filepath.Join(dir, "big"), int64(gib)<<30))
	var waits []float64
	for i := range kills {
		worker := daemontest.Children(t, d.cmd.Process.Pid)[0]
		for touched(t, worker) < uint64(gib)<<20*15/16 {
			var wg sync.WaitGroup
			for part := range 64 {
				wg.Go(func() {
					for n := range gib * 1024 / 64 {
						_, _ = c.Read(big.Entry.NodeID, big.Open.Fh, uint64(part*gib*1024/64+n)<<20, 1<<20)
					}
				})
			}
			wg.Wait()
		}
		began := time.Now()
		must(unix.Kill(worker, unix.SIGKILL))
		_, err := c.Getattr(fp.RootID)
		must(err)
		waits = append(waits, float64(time.Since(began).Microseconds())/1000)
		d.waitLine("first reply")
		if level == "debug" {
			t.Logf("death %d: %.1f ms", i, waits[i])
		}
	}
	for _, line := range d.said {
		if strings.Contains(line, "Until the first reply") { // debug messages only
			t.Log(line)
		}
	}
	slices.Sort(waits)
	t.Logf("%d GiB, %d nodes, %d open files: %d deaths: p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, most %.1f ms", gib, nodes, opens, kills,
		waits[len(waits)/2], waits[len(waits)*9/10], waits[len(waits)*99/100], waits[len(waits)-1])
	if m := firstReply.FindStringSubmatch(d.said[len(d.said)-1]); m != nil {
		t.Logf("the last one by the log: serves after %s, first reply after %s", m[1], m[2])
	}
}

// touched is how many KiB of shared memory a process has mapped.
func touched(t *testing.T, pid int) (kib uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`RssShmem:\s+(\d+) kB`).FindSubmatch(b); m != nil {
		kib, _ = strconv.ParseUint(string(m[1]), 10, 64)
	}
	return kib
}
