package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// owning is a keeper whose workers share a word with it.
func owning(t *testing.T) (*rig, *uint32) {
	f, word := newWord(t)
	var r *rig
	ready := make(chan struct{})
	r = newRig(t, func(k *Keeper) {
		k.clock.after, k.o.Owner = at(nil), word
		start := k.o.Start
		k.o.Start = func(l Launch) (*os.Process, error) {
			<-ready
			return start(l)
		}
	})
	r.word = f
	close(ready)
	return r, word
}

// TestDeadUnreaped: the keeper learns how a worker has ended before anybody has reaped it, and never of one
// that runs.
func TestDeadUnreaped(t *testing.T) {
	r, word := owning(t)
	f := r.serving()
	f.do("own")
	if v := atomic.LoadUint32(word); v != uint32(f.pid)|futexWaiters {
		t.Errorf("the word is %#x: its owner is %d", v, f.pid)
	}
	p := newPatrol(word, f.pid)
	if p.heard.Load() {
		t.Error("a worker that lives is said to be dead")
	}
	threads, err := p.threads()
	if err != nil || len(threads) == 0 {
		t.Errorf("threads %v, %v", threads, err)
	}
	for _, name := range threads {
		if s, gone := p.stat("task/" + name + "/stat"); gone || s.Exiting() {
			t.Errorf("thread %s of a worker that lives: gone %v, exiting %v", name, gone, s.Exiting())
		}
	}
	r.signals <- unix.SIGTERM
	r.end()
	if _, gone := p.stat("stat"); !gone {
		t.Error("a process that was reaped has a status")
	}
	if _, ok := p.stopped(); ok {
		t.Error("a process that was reaped has stopped once more")
	}

	// The same for processes that the test alone reaps.
	for _, end := range []struct{ how, says string }{{"die", "signal: killed"}, {"exit 3", "exit status 3"}, {"exit 0", ""}} {
		owned := &rig{t: t, workers: make(chan *fake, 1), word: r.word}
		ours, theirs, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		process, err := owned.start(Launch{Channel: theirs})
		_, _ = ours.Close(), theirs.Close()
		if err != nil {
			t.Fatal(err)
		}
		f := <-owned.workers
		f.do("own")
		p := newPatrol(word, process.Pid)
		f.want(end.how, "gone")
		if !p.await() {
			t.Fatalf("%s: not told of it", end.how)
		}
		status, ok := p.stopped()
		if ok != (end.says != "") || ok && describe(status) != end.says {
			t.Errorf("%s: %q, %v, want %q", end.how, describe(status), ok, end.says)
		}
		p.reap(func() { _, err = process.Wait() })
		if err != nil {
			t.Error(err)
		}
	}
}

// TestReapedFirst: a worker that never has the word, or is reaped before anybody has looked at the word, keeps nobody
// waiting.
func TestReapedFirst(t *testing.T) {
	_, word := newWord(t)
	for n := range 50 {
		atomic.StoreUint32(word, uint32(n)) // as for each worker
		p := newPatrol(word, os.Getpid())
		told := make(chan bool)
		go func() { told <- p.await() }()
		if n%2 == 0 {
			time.Sleep(time.Millisecond)
		}
		p.reap(func() {})
		select {
		case yes := <-told:
			if yes {
				t.Fatal("told of a death that nobody has seen")
			}
		case <-time.After(patient):
			t.Fatal("waits for a process that was reaped")
		}
	}
}

// TestOwners: workers that own the word are replaced with all that they have handed up, and so is one that only
// pretends to be dead: after it is killed.
func TestOwners(t *testing.T) {
	r, _ := owning(t)
	f := r.serving()
	for n := range 40 {
		f.do("own")
		how := fmt.Sprintf("keepdie open-%d-0 file %d", n, n)
		switch n % 4 {
		case 2:
			f.do(fmt.Sprintf("keep open-%d-0 file %d", n, n))
			how = "exit 9"
		case 3:
			f.do(fmt.Sprintf("keep open-%d-0 file %d", n, n))
			how = ""
		}
		if how != "" {
			f.want(how, "gone")
		} else {
			_, _ = fmt.Fprintln(f.in, "pretend")
		}
		old := f.pid
		f = r.next()
		if how == "" && !exits(old) {
			t.Errorf("worker %d runs beside its successor", n)
		}
		f.do("receive")
		f.want(fmt.Sprintf("content open-%d-0", n), fmt.Sprintf("file %d", n))
		f.do("serving")
	}
	r.signals <- unix.SIGTERM
	if out := r.end(); !out.Told || !out.Served {
		t.Errorf("%+v", out)
	}
	for _, how := range []string{"signal: killed", "exit status 9"} {
		if !strings.Contains(r.log.String(), how) {
			t.Errorf("the log does not say %q", how)
		}
	}
}

// exits reports whether none of a process's threads runs.
func exits(pid int) bool {
	p := newPatrol(new(uint32), pid)
	if p == nil {
		return true
	}
	s, gone := p.stat("stat")
	return gone || s.Exiting()
}

// TestOwnerEnds: a worker's exit status is what it was, although the keeper has killed what was left of it.
func TestOwnerEnds(t *testing.T) {
	for _, status := range []int{0, 5} {
		f, word := newWord(t)
		var ended atomic.Bool
		ended.Store(true)
		var r *rig
		ready := make(chan struct{})
		r = newRig(t, func(k *Keeper) {
			k.o.Owner, k.o.Ended = word, ended.Load
			start := k.o.Start
			k.o.Start = func(l Launch) (*os.Process, error) { <-ready; return start(l) }
		})
		r.word = f
		close(ready)
		w := r.serving()
		w.do("own")
		w.want(fmt.Sprintf("exit %d", status), "gone")
		out := r.end()
		if out.Err != nil || out.State == nil || out.State.ExitCode() != status {
			t.Errorf("%+v, want exit status %d", out, status)
		}
	}
}

// TestThreadsUnlisted: a thread that the list lacks, as others were reaped while it was read, counts as one that runs.
func TestThreadsUnlisted(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, threads int) {
		fields := slices.Repeat([]string{"0"}, 53) // proc_pid_stat(5) counts from 1
		fields[3], fields[9], fields[20], fields[52] = "Z", "4", strconv.Itoa(threads), "9"
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("1 (worker) "+strings.Join(fields[3:], " ")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("task/1/stat", 1)
	write("task/3/stat", 1)
	proc, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := &patrol{word: new(uint32), proc: proc}
	defer p.reap(func() {})
	for threads, want := range map[int]bool{2: false, 3: true} {
		write("stat", threads)
		if running, err := p.running(); running != want || err != nil {
			t.Errorf("%d threads, of which 2 are listed and exit: running %v, %v", threads, running, err)
		}
	}
	write("stat", 2)
	if status, ok := p.stopped(); !ok || describe(status) != "signal: killed" {
		t.Errorf("stopped: %v, %v", describe(status), ok)
	}
}
