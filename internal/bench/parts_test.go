package bench

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// TestTransferOrder: every block comes once before any comes twice, else a disk's reads
// would come from the page cache.
func TestTransferOrder(t *testing.T) {
	for _, size := range []int64{1 << 20, 256 << 20, 257 << 20, 4096 * 3} {
		x := newTransfer(0, 0, size, 4096, 3, false)
		seen := make([]bool, x.blocks)
		for range x.blocks {
			x.at = (x.at + x.step) % x.blocks
			if seen[x.at] {
				t.Fatalf("file of %d: block %d comes twice", size, x.at)
			}
			seen[x.at] = true
		}
	}
}

// TestProcessCPU: the clock of another process counts what it does, and what its
// children do when they are among the descendants.
func TestProcessCPU(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "(while :; do :; done) & echo started; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := out.Read(b); err != nil {
		t.Fatal(err)
	}
	pids := append([]int{cmd.Process.Pid}, tasks.Descendants(cmd.Process.Pid)...)
	if len(pids) != 2 {
		t.Fatalf("descendants are %v, want the shell and its child", pids)
	}
	defer func() {
		_ = unix.Kill(pids[1], unix.SIGKILL)
		_ = cmd.Wait()
	}()
	before, err := treeCPU(pids)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		after, err := treeCPU(pids)
		if err != nil {
			t.Fatal(err)
		}
		if after-before > 20*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy loop has used %v of CPU in 60 s", after-before)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := processCPU(1 << 22); err == nil { // more than the largest pid
		t.Error("a process that is not there has a clock")
	}
}

// TestDaemonStops: a daemon that ignores SIGTERM, and its child, are gone after stop.
func TestDaemonStops(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(&Target{Command: `sh -c "trap '' TERM; sleep 1000 & echo ready >&2; wait; sleep 1000" {socket} {dir}`}, dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; !strings.Contains(d.errors.String(), "ready"); i++ {
		if i > 6000 {
			t.Fatal("the shell does not start")
		}
		time.Sleep(10 * time.Millisecond)
	}
	family := append([]int{d.cmd.Process.Pid}, tasks.Descendants(d.cmd.Process.Pid)...)
	if len(family) != 2 {
		t.Errorf("the daemon is %v, want two processes", family)
	}
	d.stop(false)
	for _, pid := range family {
		for i := 0; unix.Kill(pid, 0) == nil && isRunning(pid); i++ {
			if i > 6000 {
				t.Fatalf("process %d is still there", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// isRunning reports whether a process exists and is not a zombie.
func isRunning(pid int) bool {
	s, ok := tasks.StatOf(pid)
	return ok && s.State != 'Z'
}

// TestDaemonFails: when a daemon ends at its start, the error has its output,
// and the run does not wait for the socket.
func TestDaemonFails(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(&Target{Command: "sh -c 'echo no such option >&2; exit 3'"}, dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop(false)
	_, err = d.connect(context.Background())
	if err == nil || !strings.Contains(err.Error(), "no such option") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the error does not say why: %v", err)
	}
}

// TestPrepare: prepare makes the files, and remove removes them.
func TestPrepare(t *testing.T) {
	o := &Options{Dir: t.TempDir(), Workloads: Workloads(), Files: 10, ColdSize: 1 << 20, Guests: 2, Queues: 2}
	f, err := prepare(o, goOn)
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"small/" + fileName(999): smallSize, "list/" + fileName(999): 0, "many/" + fileName(9): 0,
		"big": bigSize, "big-1": bigSize, "big-3": bigSize, "cold": 1 << 20} {
		if st, err := os.Stat(f.path + "/" + name); err != nil || st.Size() != size {
			t.Errorf("%s: %v, want %d bytes", name, err, size)
		}
	}
	if err := f.dropCache(); err != nil {
		t.Error(err)
	}
	if err := f.remove(); err != nil {
		t.Error(err)
	}
	if list, _ := os.ReadDir(o.Dir); len(list) > 0 {
		t.Errorf("%v is left", list)
	}
	o.Dir += "/missing"
	if _, err := prepare(o, goOn); err == nil {
		t.Error("files were made in a directory that does not exist")
	}
}

// TestOutSize: many writers have smaller files.
func TestOutSize(t *testing.T) {
	for outs, want := range map[int]int64{1: bigSize, 8: bigSize, 9: 56 << 20, 64: 8 << 20, 1000: 4 << 20} {
		if got := (&files{outs: outs}).outSize(); got != want {
			t.Errorf("%d writers: %d bytes each, want %d", outs, got, want)
		}
	}
}

// TestFloors: each loop of system calls works.
func TestFloors(t *testing.T) {
	f, err := prepare(&Options{Dir: t.TempDir(), Workloads: Workloads(), Files: 300, ColdSize: 1 << 20}, goOn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.remove() }()
	for _, w := range Workloads() {
		if w.floor == nil {
			continue
		}
		ff, err := w.floor(f)
		if err != nil {
			t.Fatalf("%s: %v", w.Name, err)
		}
		m, err := measureFloor(context.Background(), ff, 3, time.Millisecond)
		ff.close()
		if err != nil || m.Units == 0 || m.CPU <= 0 {
			t.Errorf("%s: %+v, %v", w.Name, m, err)
		}
	}
}
