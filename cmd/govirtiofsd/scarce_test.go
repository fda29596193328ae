package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Workers die while something is scarce on the host: space, memory, descriptors, a front-end that runs.

// killWorker kills the daemon's worker, and returns when there is another one.
func killWorker(t *testing.T, pid int) {
	t.Helper()
	old := daemontest.Children(t, pid)
	if len(old) != 1 {
		t.Fatalf("the daemon has the children %v", old)
	}
	_ = unix.Kill(old[0], unix.SIGKILL)
	eventually(t, "another worker", func() error {
		if all := daemontest.Children(t, pid); len(all) != 1 || all[0] == old[0] {
			return fmt.Errorf("children %v", all)
		}
		return nil
	})
}

// killing kills the worker n times, each time after some requests were served, while f makes
// requests until it is told to stop.
func killing(t *testing.T, s *shared, n int, f func(k *disturber, stopped func() bool)) {
	t.Helper()
	var k disturber
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		f(&k, func() bool {
			select {
			case <-done:
				return true
			default:
				return t.Failed()
			}
		})
	})
	k.run(t, n, func() { killWorker(t, s.daemon.cmd.Process.Pid) })
	close(done)
	wg.Wait()
}

// TestIntegrationDeathsNoSpace fills a file system again and again. What was acknowledged is in the
// file, and a request that found no space has left nothing.
func TestIntegrationDeathsNoSpace(t *testing.T) {
	guest.NeedRoot(t)
	dir := tempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,nr_inodes=20"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	s := startShared(t, dir, "namespace", 1)
	killing(t, s, 20, func(k *disturber, stopped func() bool) {
		for round := 0; !stopped(); round++ {
			var made []string
			var nodes []uint64
			for i := 0; ; i++ { // until there are no inodes
				name := fmt.Sprintf("%d-%d", round, i)
				e, err := s.Mkdir(fp.RootID, name, 0o755)
				k.served.Add(1)
				if errors.Is(err, unix.ENOSPC) {
					break
				} else if err != nil {
					t.Error(err)
					return
				}
				made, nodes = append(made, name), append(nodes, e.NodeID)
			}
			if got, _ := os.ReadDir(dir); len(got) != len(made) {
				t.Errorf("round %d: %d directories, %d were made", round, len(got), len(made))
			}
			for i, name := range made {
				if err := errors.Join(s.Rmdir(fp.RootID, name), s.Forget(nodes[i], 1)); err != nil {
					t.Error(err)
				}
			}
			fillOnce(t, s, k, fmt.Sprintf("f%d", round))
		}
	})
	s.Close()
	s.daemon.wantStatus(exitOK)
}

// fillOnce appends to a new file until there is no space, and removes it.
func fillOnce(t *testing.T, s *shared, k *disturber, name string) {
	f, err := s.Create(fp.RootID, name, unix.O_RDWR|unix.O_APPEND, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	node, fh := f.Entry.NodeID, f.Open.Fh
	size := 0
	for n := 0; ; n++ {
		data := []byte(strings.Repeat(strconv.Itoa(n%10), 4000))
		written, err := s.Write(node, fh, uint64(size), data)
		k.served.Add(1)
		if errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Error(err)
			break
		}
		size += written
	}
	if st, err := os.Stat(filepath.Join(s.dir, name)); err != nil || st.Size() != int64(size) {
		t.Errorf("%s: %d bytes were acknowledged; %v, %v", name, size, st.Size(), err)
	}
	if err := s.Unlink(fp.RootID, name); err != nil {
		t.Error(err)
	}
	if err := s.Release(node, fh); err != nil {
		t.Error(err)
	}
	if err := s.Forget(node, 1); err != nil {
		t.Error(err)
	}
}

// TestIntegrationDeathsBroken: a file system below the share answers EIO to everything. So do the
// requests that touch it, and no others.
func TestIntegrationDeathsBroken(t *testing.T) {
	guest.NeedFUSE(t)
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFUSE(t, dir+"/host")
	s := startShared(t, dir, "namespace", 1)
	host, err := s.Lookup(fp.RootID, "host")
	if err != nil {
		t.Fatal(err)
	}
	f.broken.Store(true)
	killing(t, s, 10, func(k *disturber, stopped func() bool) {
		for i := 0; !stopped(); i++ {
			_, err := s.Lookup(host.NodeID, fmt.Sprintf("f%d", i))
			k.served.Add(1)
			if !errors.Is(err, unix.EIO) {
				t.Errorf("a file system that is broken: %v", err)
			}
			if i%8 == 0 {
				s.rest(fmt.Sprint("r", i, "-"))
			}
		}
	})
	f.broken.Store(false)
	if _, err := s.Lookup(host.NodeID, "f1"); err != nil {
		t.Errorf("mended: %v", err)
	}
	s.Close()
	s.daemon.wantStatus(exitOK)
}

// TestIntegrationDeathFrozen kills a worker while threads of it hang in a frozen file system. The kernel
// does not let them end, so all waits for the thaw. Then each request was done once.
func TestIntegrationDeathFrozen(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, dir+"/host")
	s := startShared(t, dir, "namespace", 1)
	host, err := s.Lookup(fp.RootID, "host")
	if err != nil {
		t.Fatal(err)
	}
	d.freeze()
	defer func() { _ = unix.IoctlSetInt(int(d.root.Fd()), fiThaw, 0) }()
	const n = 8
	h := s.hang(n, func(i int) error {
		_, err := s.Mkdir(host.NodeID, fmt.Sprintf("d%d", i), 0o755)
		return err
	})
	s.rest("a")
	s.rest("b")
	h.still()
	old := daemontest.Children(t, s.daemon.cmd.Process.Pid)
	_ = unix.Kill(old[0], unix.SIGKILL)
	d.thaw()
	h.wait()
	s.rest("c")
	for i := range n {
		if _, err := s.Mkdir(host.NodeID, fmt.Sprintf("d%d", i), 0o755); !errors.Is(err, unix.EEXIST) {
			t.Errorf("d%d is made once more: %v", i, err)
		}
	}
	s.Close()
	s.daemon.wantStatus(exitOK)
}

// TestIntegrationDeathDeadFUSE kills workers while a file server below the share does not answer. The next
// worker does not wait for it: only requests that touch it do.
func TestIntegrationDeathDeadFUSE(t *testing.T) {
	guest.NeedFUSE(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			s, dead, ask := startBesideFUSE(t, box, 1)
			dead.freeze()
			for round := range 2 {
				killWorker(t, s.daemon.cmd.Process.Pid)
				s.rest(fmt.Sprint("a", round, "-"))
			}
			h := s.hang(8, ask)
			s.rest("b")
			h.still()
			dead.thaw()
			h.wait()
			s.rest("c")
			s.Close()
			s.daemon.wantStatus(exitOK)
		})
	}
}

// TestIntegrationDeathNoMemory has the kernel kill a worker because it takes more memory than it may.
func TestIntegrationDeathNoMemory(t *testing.T) {
	guest.NeedRoot(t)
	dir := tempDir(t)
	const files = 5000
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/%0200d", dir, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := startShared(t, dir, "namespace", 1)
	if _, err := s.Getattr(fp.RootID); err != nil {
		t.Fatal(err)
	}
	worker := daemontest.Children(t, s.daemon.cmd.Process.Pid)[0]
	if !limitMemory(t, worker) {
		t.Log("there are no memory cgroups here: the test kills the worker in the place of the kernel")
	}
	seen := map[uint64]bool{}
	for i := range files { // nodes take memory that can't be taken back
		e, err := s.Lookup(fp.RootID, fmt.Sprintf("%0200d", i))
		if err != nil {
			t.Fatal(err)
		}
		seen[e.NodeID] = true
	}
	if len(seen) != files {
		t.Errorf("%d files have %d numbers", files, len(seen))
	}
	if all := daemontest.Children(t, s.daemon.cmd.Process.Pid); slices.Contains(all, worker) {
		t.Log("the kernel has found memory, maybe swapped: it has not killed the worker")
		killWorker(t, s.daemon.cmd.Process.Pid)
	}
	for node := range seen {
		if _, err := s.Getattr(node); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s.daemon.wantStatus(exitOK)
}

// limitMemory lets a process take 3 MiB more, in a memory cgroup of version 2 or 1. It returns false if
// the machine has none.
func limitMemory(t *testing.T, pid int) bool {
	t.Helper()
	for _, c := range []struct{ parent, limit, swap string }{
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness"},
	} {
		dir := fmt.Sprintf("%s/govirtiofs-test-%d", c.parent, pid)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, "remove "+dir, func() error { return unix.Rmdir(dir) })
		})
		set := func(file, value string) error {
			f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
			if err != nil {
				return err // not a cgroup, or not of memory
			}
			defer f.Close()
			_, err = f.WriteString(value)
			return err
		}
		_ = set(c.swap, "0")
		if set(c.limit, strconv.Itoa(3<<20)) == nil && set("cgroup.procs", strconv.Itoa(pid)) == nil {
			t.Logf("limited by %s of %s", c.limit, dir)
			return true
		}
	}
	return false
}

// TestIntegrationDeathTruncated: a file of guest memory has become shorter when a worker takes over. What
// is not in it can't be used, and nothing else is lost.
func TestIntegrationDeathTruncated(t *testing.T) {
	guest.NeedRoot(t)
	s := startShared(t, tempDir(t), "namespace", 1)
	memory, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	const at, size = uint64(1) << 40, uint64(1 << 20)
	if err := unix.Ftruncate(memory, int64(size)); err != nil {
		t.Fatal(err)
	}
	region := vu.SingleRegion{Region: vu.MemoryRegion{GuestAddr: at, Size: size, UserAddr: at}}
	if err := s.Acked(vu.ReqAddMemReg, vu.Bytes(&region), memory); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int64{4096, 0} {
		if err := unix.Ftruncate(memory, left); err != nil {
			t.Fatal(err)
		}
		killWorker(t, s.daemon.cmd.Process.Pid)
		s.rest(fmt.Sprint("left", left, "-"))
	}
	s.Close()
	s.daemon.wantStatus(exitOK)
}

// vmmLoad is set in the environment of a VMM like vmmSocket: it makes directories in a share.
const vmmLoad = "GOVIRTIOFSD_TEST_VMM_LOAD"

// runLoad makes directories until it can't, and says the number of each.
func runLoad(socket string) (status int) {
	f, err := frontend.Dial(socket, frontend.Options{})
	if err == nil {
		c := frontend.NewClient(f)
		for i := 0; err == nil; i++ {
			if i == 0 {
				err = c.Handshake(frontend.AllFlags)
			} else if _, err = c.Mkdir(fp.RootID, strconv.Itoa(i), 0o755); err == nil {
				fmt.Println(i)
			}
		}
	}
	fmt.Println(err)
	return 1
}

// TestIntegrationDeathsStopped kills workers while the front-end is stopped: taking over needs nothing of it.
func TestIntegrationDeathsStopped(t *testing.T) {
	guest.NeedRoot(t)
	dir, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--socket-path", socket, "--shared-dir", dir)
	d.waitLine(waitingLine)
	vmm, out := startVMM(t, vmmLoad, socket)
	lines := bufio.NewScanner(out)
	made := 0
	more := func(n int) {
		t.Helper()
		for range n {
			if !lines.Scan() || lines.Text() != strconv.Itoa(made+1) {
				t.Fatalf("after %d directories: %q, %v", made, lines.Text(), lines.Err())
			}
			made++
		}
	}
	more(10)
	for range 5 {
		if err := vmm.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			killWorker(t, d.cmd.Process.Pid)
			d.waitLine("serves after")
		}
		if err := vmm.Process.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		more(2000) // more than the pipe between us has room for
	}
	_ = vmm.Process.Kill()
	d.wantStatus(exitOK)
}
