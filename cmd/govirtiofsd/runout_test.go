package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/eventfd"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// TestIntegrationRunOut: a guest makes the daemon keep descriptors in every way that there
// is, until there are no more. The front-end can still do all that it may have to.
func TestIntegrationRunOut(t *testing.T) {
	const limit = 400
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir, socket := tempDir(t), filepath.Join(tempDir(t), "s")
			d := startDaemon(t, nil, "--sandbox="+box, "--shared-dir="+dir, "--socket-path="+socket,
				fmt.Sprint("--rlimit-nofile=", limit), "--num-request-queues=4")
			d.waitLine(waitingLine)
			c := connect(t, socket)
			defer c.Close()
			runOut(t, c)
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", servingPID(t, d.cmd.Process.Pid)))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d descriptors of %d are open", len(open), limit)
			// 4 request queues of the 5 that there may be, with 5 descriptors each, are in use already.
			if free := limit - len(open); free < filesOfProcess || free > limit/2 {
				t.Errorf("%d descriptors are left, want %d or a few more", free, filesOfProcess)
			}
			controlAll(t, c.Frontend)
			if _, err := c.Getattr(1); err != nil {
				t.Errorf("after it: %v", err)
			}
			killWorker(t, d.cmd.Process.Pid)
			if err := errors.Join(c.Stop(), c.Start()); err != nil {
				t.Error(err)
			}
			if _, err := c.Create(1, "after a death", unix.O_RDWR, 0o644); err != nil && !errors.Is(err, unix.ENFILE) {
				t.Errorf("after a death: %v", err)
			}
			if f, err := c.Lookup(1, "file"); err != nil {
				t.Errorf("after a death: %v", err)
			} else if _, err := c.Getattr(f.NodeID); err != nil {
				t.Errorf("after a death: %v", err)
			}
			if err := c.Destroy(); err != nil {
				t.Error(err)
			}
			if err := c.Handshake(frontend.AllFlags); err != nil {
				t.Error(err)
			}
			if err := exercise(c, false); err != nil {
				t.Errorf("a new session: %v", err)
			}
		})
	}
}

// servingPID is the process that has the guest's files: the child, where there is one.
func servingPID(t *testing.T, pid int) int {
	t.Helper()
	for _, child := range daemontest.Children(t, pid) {
		return child
	}
	return pid
}

// runOut is the guest that keeps all that it can get.
func runOut(t *testing.T, c *frontend.Client) {
	t.Helper()
	refused := map[string]int{}
	try := func(what string, err error) bool {
		t.Helper()
		if errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOLCK) {
			refused[what]++
		} else if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
			t.Fatalf("%s: %v", what, err)
		}
		return err == nil
	}
	for i := range 500 {
		name := fmt.Sprint(i)
		if f, err := c.Mknod(1, "pin"+name, unix.S_IFREG|0o644, 0); try("mknod", err) {
			try("unlink", c.Unlink(1, "pin"+name))
			_, _ = c.Getattr(f.NodeID)
		}
		if e, err := c.Mkdir(1, "parent"+name, 0o755); try("mkdir", err) {
			_, err := c.Mknod(e.NodeID, "child", unix.S_IFREG|0o644, 0)
			try("mknod", err)
			try("forget", c.Forget(e.NodeID, 1))
		}
		if _, err := c.Mkdir(1, "gone"+name, 0o755); try("mkdir", err) {
			try("rmdir", c.Rmdir(1, "gone"+name))
		}
		if i%10 != 0 { // the others take their turn before the files have taken everything
			continue
		}
		_, err := c.Tmpfile(1, unix.O_RDWR, 0o644)
		try("tmpfile", err)
		_, err = c.Opendir(1)
		try("opendir", err)
		if f, err := c.Create(1, "lock"+name, unix.O_RDWR, 0o644); try("create", err) {
			for owner := range uint64(3) {
				lk := fp.FileLock{Type: unix.F_RDLCK, End: 10}
				try("lock", c.Lock(f.Entry.NodeID, f.Open.Fh, owner, lk, 0, false))
			}
			try("unlink", c.Unlink(1, "lock"+name))
		}
	}
	f, err := c.Mknod(1, "file", unix.S_IFREG|0o644, 0)
	try("mknod", err)
	for range 500 {
		_, err := c.Open(f.NodeID, unix.O_RDWR)
		try("open", err)
	}
	if refused["open"] == 0 || refused["mknod"] != 0 || refused["unlink"] != 0 {
		t.Errorf("refused for want of descriptors: %v", refused)
	}
}

// controlAll has the front-end hand over descriptors in all messages that have some.
func controlAll(t *testing.T, f *frontend.Frontend) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range f.Queues {
		for _, request := range []vu.Request{vu.ReqSetVringErr, vu.ReqSetVringCall} {
			fd, err := eventfd.New()
			must("eventfd", err)
			v := uint64(i)
			must(request.String(), f.Acked(request, vu.Bytes(&v), fd))
			_ = unix.Close(fd)
		}
	}
	must("stop", f.Stop())
	must("start", f.Start())
	memory, err := unix.MemfdCreate("more memory", unix.MFD_CLOEXEC)
	must("memfd", err)
	defer unix.Close(memory)
	must("size", unix.Ftruncate(memory, 1<<20))
	for i := range uint64(8) {
		at := uint64(1)<<40 + i<<20
		s := vu.SingleRegion{Region: vu.MemoryRegion{GuestAddr: at, Size: 1 << 20, UserAddr: at}}
		must("ADD_MEM_REG", f.Acked(vu.ReqAddMemReg, vu.Bytes(&s), memory))
	}
	log := vu.LogDescription{Size: 1 << 20}
	_, err = f.Call(vu.ReqSetLogBase, vu.Bytes(&log), memory)
	must("SET_LOG_BASE", err)
	must("stop", f.Stop())
	must("start", f.Start())
}
