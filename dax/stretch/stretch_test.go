package stretch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newHelper starts a helper in this process.
func newHelper(t testing.TB) *Client {
	t.Helper()
	h, err := NewHelper()
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(h.Close)
	client, helper, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- h.Serve(helper) }()
	t.Cleanup(func() {
		_ = unix.Close(client)
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = unix.Close(helper)
	})
	c, err := NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestIntegrationSamePages: a mapping past the end of a stretched file is the file, while
// it grows and shrinks, and after everything but the mapping is closed.
func TestIntegrationSamePages(t *testing.T) {
	c := newHelper(t)
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": "/dev/shm"} {
		t.Run(name, func(t *testing.T) {
			f, err := os.CreateTemp(dir, "stretch")
			if err != nil {
				t.Fatal(err)
			}
			defer os.Remove(f.Name())
			defer f.Close()
			if _, err := f.WriteString("five "); err != nil {
				t.Fatal(err)
			}
			long, err := c.Stretch(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			const length = 2 << 20
			if size, err := unix.Seek(long, 0, unix.SEEK_END); size != Size || err != nil {
				t.Error(size, err)
			}
			b, err := unix.Mmap(long, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(b)
			_ = unix.Close(long)
			if string(b[:6]) != "five \x00" {
				t.Errorf("%q", b[:6])
			}
			b[0] = 'F'
			if _, err := f.WriteAt([]byte("grown"), 1<<20); err != nil {
				t.Fatal(err)
			}
			if string(b[1<<20:1<<20+5]) != "grown" {
				t.Error("the mapping does not see how the file grew")
			}
			got := make([]byte, 5)
			if _, err := f.ReadAt(got, 0); err != nil || string(got) != "Five " {
				t.Errorf("%v: %q", err, got)
			}
			if st, err := f.Stat(); err != nil || st.Size() != 1<<20+5 {
				t.Error("the file's size:", st.Size(), err)
			}
			if err := errors.Join(f.Truncate(0), f.Truncate(4096)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b[:4096], make([]byte, 4096)) {
				t.Error("the mapping has what was cut off")
			}
		})
	}
}

// TestIntegrationAccess: a stretched file allows what its file allows.
func TestIntegrationAccess(t *testing.T) {
	c := newHelper(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	long, err := c.Stretch(open(t, path, unix.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(long)
	if b, err := unix.Mmap(long, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		_ = unix.Munmap(b)
		t.Error("what was open for reading can be written to")
	}
	if _, err := unix.Pwrite(long, []byte("y"), 0); err != unix.EBADF {
		t.Error("write:", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for what, fd := range map[string]int{
		"write only": open(t, path, unix.O_WRONLY),
		"path":       open(t, path, unix.O_PATH),
		"directory":  open(t, filepath.Dir(path), unix.O_RDONLY),
		"device":     open(t, "/dev/null", unix.O_RDWR),
		"pipe":       int(r.Fd()),
		"nothing":    -1,
	} {
		if long, err := c.Stretch(fd); err == nil {
			_ = unix.Close(long)
			t.Error(what, "was stretched")
		}
	}
}

// TestIntegrationAppendOnly: a file that may only grow, which is nothing that its
// descriptor's access mode tells, is not changed through a mapping of a stretched file
// either.
func TestIntegrationAppendOnly(t *testing.T) {
	c := newHelper(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path, unix.O_RDONLY)
	const appendOnly = 0x20 // FS_APPEND_FL
	flags, err := unix.IoctlGetUint32(f, unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(f, unix.FS_IOC_SETFLAGS, int(flags|appendOnly))
	}
	if err != nil {
		t.Skip("no append-only files here: ", err)
	}
	defer func() { _ = unix.IoctlSetPointerInt(f, unix.FS_IOC_SETFLAGS, int(flags)) }()
	if long, err := c.Stretch(open(t, path, unix.O_RDWR|unix.O_APPEND)); !errors.Is(err, unix.EACCES) {
		t.Error(err)
		_ = unix.Close(long)
	}
	long, err := c.Stretch(f)
	if err != nil {
		t.Fatal("for reading: ", err)
	}
	_ = unix.Close(long)
}

// TestIntegrationMany has several goroutines stretch different files, and looks for
// descriptors that stay.
func TestIntegrationMany(t *testing.T) {
	c := newHelper(t)
	dir := t.TempDir()
	before := descriptors(t)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			f, err := os.Create(filepath.Join(dir, string(rune('a'+g))))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.Write([]byte{byte(g)}); err != nil {
				t.Error(err)
			}
			for range 200 {
				long, err := c.Stretch(int(f.Fd()))
				if err != nil {
					t.Error(err)
					return
				}
				b := []byte{99}
				if _, err := unix.Pread(long, b, 0); err != nil || b[0] != byte(g) {
					t.Error("other data:", b, err)
				}
				_ = unix.Close(long)
			}
		})
	}
	all.Wait()
	after := descriptors(t)
	for i := 0; after > before && i < 2000; i++ { // the helper closes its own after the answer
		time.Sleep(10 * time.Millisecond)
		after = descriptors(t)
	}
	if after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestSocket needs no privileges: what a client makes of a helper's answers.
func TestSocket(t *testing.T) {
	client, helper, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if err := send(helper, message{errno: unix.EPERM, fd: -1}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(client); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	c := AdoptClient(client)
	defer unix.Close(client)
	for _, answer := range []func() error{
		func() error { return send(helper, message{id: c.last + 1, fd: -1}) },                         // no descriptor
		func() error { return send(helper, message{id: c.last + 1, fd: 1 << 20}) },                    // an error to send
		func() error { _, err := unix.Write(helper, []byte{1}); return err },                          // short
		func() error { _, err := unix.Write(helper, make([]byte, 9)); return err },                    // long
		func() error { return send(helper, message{errno: unix.EINVAL, id: c.last + 1, fd: helper}) }, // both
	} {
		if err := answer(); err != nil {
			_ = send(helper, message{errno: unix.EBADF, id: c.last + 1, fd: -1})
		}
		if fd, err := c.Stretch(0); err == nil {
			t.Error("got", fd)
		}
	}
	_ = unix.Close(helper)
	if _, err := c.Stretch(0); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// TestSuccessor: what a client that has died did not receive is not the answer to its successor's
// request.
func TestSuccessor(t *testing.T) {
	client, helper, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	defer unix.Close(helper)
	c := AdoptClient(client)
	other := open(t, os.DevNull, unix.O_RDONLY)
	before := descriptors(t)
	for _, id := range []uint32{c.last, c.last - 1, c.last + 2} {
		if err := send(helper, message{id: id, fd: other}); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(helper, message{errno: unix.ENOSPC, id: c.last + 1, fd: -1}); err != nil {
		t.Fatal(err)
	}
	if fd, err := c.Stretch(0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d, %v", fd, err)
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}

func BenchmarkStretch(b *testing.B) {
	c := newHelper(b)
	fd := open(b, filepath.Join(b.TempDir(), "f"), unix.O_RDWR|unix.O_CREAT)
	for b.Loop() {
		long, err := c.Stretch(fd)
		if err != nil {
			b.Fatal(err)
		}
		_ = unix.Close(long)
	}
}

// missing skips the test where the kernel can't do it, or the tests don't run as root. On
// a machine that must have all that tests need, only the kernel is an excuse.
func missing(t testing.TB, err error) {
	t.Helper()
	var u unix.Utsname
	_ = unix.Uname(&u)
	var major, minor int
	_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	if os.Getenv("GOVIRTIOFS_REQUIRE") == "1" && (major > 6 || major == 6 && minor >= 9) {
		t.Fatal(err)
	}
	t.Skip("needs root and Linux 6.9 with FUSE_PASSTHROUGH: ", err)
}
