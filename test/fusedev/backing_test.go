package fusedev

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// needPassthrough skips on kernels that can't read and write files without the server.
func needPassthrough(t *testing.T) {
	t.Helper()
	guest.NeedFUSE(t)
	guest.NeedLinux(t, 6, 9, "FUSE_PASSTHROUGH")
}

// stop stops a process, and waits until it has.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("no threads of %d: %v", pid, err)
		}
		running := 0
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if i := bytes.LastIndexByte(b, ')'); i >= 0 && i+2 < len(b) && b[i+2] != 'T' {
				running++
			}
		}
		if running == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d threads do not stop", running)
		}
	}
}

// within runs f, which must end while the server can't help it.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(60 * time.Second):
		t.Errorf("%s waits for the server", what)
	}
}

// TestBackingFiles: the kernel reads, writes and maps files without the server, which is stopped
// meanwhile.
func TestBackingFiles(t *testing.T) {
	needPassthrough(t)
	source := t.TempDir()
	k := kindOf("fusedev passthrough")
	dir, pid := start(t, k, source)
	path := filepath.Join(dir, "file")
	w, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) // CREATE
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	r, err := os.Open(path) // and OPEN
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := w.Stat(); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("govirtiofs"), 10000)
	// The first write after a look at the attributes asks for security.capability.
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	stop(t, pid)
	goOn := func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	defer goOn()
	within(t, "write", func() error { _, err := w.WriteAt(text, 0); return err })
	within(t, "read", func() error {
		b := make([]byte, len(text))
		if _, err := w.ReadAt(b, 0); err != nil || !bytes.Equal(b, text) {
			t.Errorf("read %q..., %v", b[:10], err)
		}
		return nil
	})
	goOn()
	if b, err := os.ReadFile(filepath.Join(source, "file")); err != nil || !bytes.Equal(b, text) {
		t.Errorf("the host has %d bytes, %v", len(b), err)
	}
	if st, err := r.Stat(); err != nil || st.Size() != int64(len(text)) {
		t.Errorf("stat: %v, %v", st, err)
	}
	b := make([]byte, len(text))
	if _, err := r.ReadAt(b, 0); err != nil || !bytes.Equal(b, text) {
		t.Errorf("the other open file has %q..., %v", b[:10], err)
	}
	m, err := unix.Mmap(int(w.Fd()), 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	m[0] = 'G'
	if err := unix.Munmap(m); err != nil {
		t.Error(err)
	}
	if h, err := os.ReadFile(filepath.Join(source, "file")); err != nil || h[0] != 'G' {
		t.Errorf("a mapping has changed nothing on the host: %q, %v", h[:1], err)
	}
	if err := os.WriteFile(path, []byte("again"), 0o644); err != nil { // while it is open, and mapped before
		t.Error(err)
	}
	if n, err := r.ReadAt(b, 0); n != 5 || string(b[:n]) != "again" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// TestBackingSetID: a file loses its set-ID bits when somebody without privileges writes to it, though
// the kernel writes as the server.
func TestBackingSetID(t *testing.T) {
	needPassthrough(t)
	source := t.TempDir()
	dir, _ := start(t, kindOf("fusedev passthrough"), source)
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(source, "file"), 0o777|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command("/bin/echo", "changed")
	cmd.Stdout = f // it writes by a descriptor, so that it needs no way to the file
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(source, "file"))
	if err != nil || st.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(filepath.Join(source, "file")); err != nil || string(b) != "changed\n" {
		t.Errorf("content %q, %v", b, err)
	}
}

func kindOf(name string) kind {
	for _, k := range kinds() {
		if k.name == name {
			return k
		}
	}
	panic(name)
}
