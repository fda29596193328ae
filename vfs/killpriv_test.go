package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// shelf is a directory with one file.
type shelf struct{ file kept }

func (*shelf) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o777}, nil
}
func (s *shelf) Lookup(_ context.Context, name string) (vfs.Node, error) {
	switch name {
	case "file":
		return &s.file, nil
	case "panic":
		panic("a method of a test fails")
	}
	return nil, fs.ErrNotExist
}
func (*shelf) Create(context.Context, string, int, fs.FileMode) (vfs.Node, vfs.Handle, error) {
	return nil, nil, fs.ErrExist
}
func (*shelf) Getxattr(context.Context, string) ([]byte, error) { return nil, unix.ENODATA }
func (*shelf) Listxattr(context.Context) ([]string, error)      { return nil, nil }

const capability = "security.capability"

// kept is a file with a mode, an owner and capabilities. The attributes user.writes and user.asked are how often it was written, and
// asked for its capabilities.
type kept struct {
	mu            sync.Mutex
	attr          vfs.Attr
	data          []byte
	caps          []byte
	writes, asked int
	opened        int // flags
	unreadable    bool
}

func (k *kept) Attr(context.Context) (vfs.Attr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	attr := k.attr
	attr.Size = int64(len(k.data))
	return attr, nil
}

func (k *kept) SetAttr(_ context.Context, set vfs.SetAttr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if set.Mode != nil {
		k.attr.Mode = *set.Mode
	}
	if set.UID != nil {
		k.attr.UID = *set.UID
	}
	if set.Size != nil {
		k.data = append(k.data, make([]byte, max(*set.Size-int64(len(k.data)), 0))...)[:*set.Size]
	}
	return nil
}

func (k *kept) Open(_ context.Context, flags int) (vfs.Handle, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened = flags
	if k.unreadable && flags&unix.O_ACCMODE != unix.O_WRONLY {
		return nil, fs.ErrPermission
	}
	return k, nil
}

func (k *kept) ReadAt(p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.NewReader(k.data).ReadAt(p, off)
}

func (k *kept) WriteAt(p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if end := int(off) + len(p); end > 1<<20 {
		return 0, unix.EFBIG
	} else if end > len(k.data) {
		k.data = append(k.data, make([]byte, end-len(k.data))...)
	}
	k.writes++
	return copy(k.data[off:], p), nil
}

func (k *kept) Getxattr(_ context.Context, name string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch name {
	case "user.writes":
		return []byte(strconv.Itoa(k.writes)), nil
	case "user.asked":
		return []byte(strconv.Itoa(k.asked)), nil
	case capability:
		if k.asked++; k.caps != nil {
			return k.caps, nil
		}
	}
	return nil, unix.ENODATA
}

func (k *kept) Listxattr(context.Context) ([]string, error) { return nil, nil }
func (k *kept) Setxattr(_ context.Context, _ string, value []byte, _ int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.caps = append([]byte{}, value...)
	return nil
}
func (k *kept) Removexattr(context.Context, string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.caps = nil
	return nil
}

// attribute is a number that the file says.
func attribute(t *testing.T, path, name string) int {
	t.Helper()
	var b [20]byte
	n, err := unix.Getxattr(path, name, b[:])
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.Atoi(string(b[:n]))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestKillPrivMounted: a user without privilege who writes ends set-ID bits and capabilities. Root may keep the
// bits of a file without capabilities. Many writes do not ask for them each.
func TestKillPrivMounted(t *testing.T) {
	for _, name := range []string{"kept", "written through"} {
		t.Run(name, func(t *testing.T) { killMounted(t, filepath.Join(mounttest.Mount(t, name), "file")) })
	}
}

func killMounted(t *testing.T, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cap2 := append([]byte{1, 0, 0, 2, 1}, make([]byte, 15)...) // struct vfs_cap_data, revision 2
	const both = os.ModeSetuid | os.ModeSetgid
	for _, c := range []struct {
		uid  uint32
		caps bool
		left os.FileMode
	}{{1000, true, 0}, {1000, false, 0}, {0, true, 0}, {0, false, both}} {
		err := os.Chmod(path, 0o777|both)
		if c.caps {
			err = errors.Join(err, unix.Setxattr(path, capability, cap2, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("printf", "x")
		cmd.Stdout = f
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
		if err := errors.Join(spawn.Start(cmd), cmd.Wait(), f.Sync()); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode()&both != c.left {
			t.Errorf("%+v: the mode is %v", c, st.Mode())
		}
		if n, err := unix.Getxattr(path, capability, nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%+v: the capabilities are of %d bytes, %v", c, n, err)
		}
	}
	if err := os.Chmod(path, 0o777); err != nil { // of files with set-ID bits Linux asks each time
		t.Fatal(err)
	}
	before := attribute(t, path, "user.asked")
	for range 100 {
		if _, err := f.WriteAt([]byte("y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := attribute(t, path, "user.asked") - before; n > 50 {
		t.Errorf("100 writes asked %d times for capabilities", n)
	}
}

// TestWriteback: the kernel collects small writes, reads for a program that only writes, and knows the end.
func TestWriteback(t *testing.T) {
	path := filepath.Join(mounttest.Mount(t, "kept"), "file")
	write := func(flags int, off int64, s string, times int) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range times {
			if flags&os.O_APPEND != 0 {
				_, err = f.WriteString(s)
			} else {
				_, err = f.WriteAt([]byte(s), off+int64(i*len(s)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 0, "0123456789", 100)
	if n := attribute(t, path, "user.writes"); n < 1 || n > 50 {
		t.Errorf("100 writes were %d", n)
	}
	fd, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fadvise(int(fd.Fd()), 0, 0, unix.FADV_DONTNEED), fd.Close()); err != nil {
		t.Fatal(err)
	}
	write(0, 5, "x", 1)
	write(os.O_APPEND, 0, "end", 2)
	want := append(bytes.Repeat([]byte("0123456789"), 100), "endend"...)
	want[5] = 'x'
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

// session is a file system of which a client knows one file, with the features that it has agreed to.
func session(t *testing.T, offered fp.InitFlags) (f *vfs.FS, k *kept, id uint64) {
	t.Helper()
	s := &shelf{file: kept{attr: vfs.Attr{Mode: 0o777 | fs.ModeSetuid | fs.ModeSetgid, UID: 5}, caps: []byte("caps")}}
	f = vfs.New(s, vfs.Options{NonBlocking: true, Writeback: true, KillPriv: true})
	if errno := f.Init(&server.InitParams{Offered: offered}); errno != 0 {
		t.Fatal(errno)
	}
	var entry fp.EntryOut
	if errno := f.Lookup(asked(fp.RootID, 0), fp.Name("file\x00"), &entry); errno != 0 {
		t.Fatal(errno)
	}
	return f, &s.file, entry.NodeID
}

func asked(id uint64, uid uint32) *server.Request {
	return server.NewRequest(fp.InHeader{NodeID: id, UID: uid})
}

// TestKillPriv: what each SETATTR leaves. A SETATTR that changes nothing is for the owner, root, and those who write.
func TestKillPriv(t *testing.T) {
	const both = fs.ModeSetuid | fs.ModeSetgid
	for _, c := range []struct {
		name   string
		uid    uint32
		in     fp.SetattrIn
		writer bool
		left   fs.FileMode
		caps   bool
	}{
		{"truncate by root", 0, fp.SetattrIn{Valid: fp.FattrSize}, false, both, false},
		{"truncate", 9, fp.SetattrIn{Valid: fp.FattrSize | fp.FattrKillSuidgid}, false, 0, false},
		{"chown by root", 0, fp.SetattrIn{Valid: fp.FattrUID, UID: 7}, false, 0, false},
		{"times", 9, fp.SetattrIn{Valid: fp.FattrMtime}, false, both, true},
		{"chmod", 5, fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o4755}, false, fs.ModeSetuid, true},
		{"nothing by a stranger", 9, fp.SetattrIn{}, false, both, true},
		{"nothing by a stranger who says kill", 9, fp.SetattrIn{Valid: fp.FattrKillSuidgid | fp.FattrCtime}, false, both, true},
		{"nothing by a writer", 9, fp.SetattrIn{Valid: fp.FattrKillSuidgid}, true, 0, false},
		{"nothing by the owner", 5, fp.SetattrIn{}, false, 0, false},
	} {
		f, k, id := session(t, fp.InitHandleKillprivV2)
		if c.writer {
			if errno := f.Open(asked(id, 0), &fp.OpenIn{Flags: unix.O_WRONLY}, new(fp.OpenOut)); errno != 0 {
				t.Fatal(errno)
			}
		}
		errno := f.Setattr(asked(id, c.uid), &c.in, new(fp.AttrOut))
		if errno != 0 || k.attr.Mode&both != c.left || (k.caps != nil) != c.caps {
			t.Errorf("%s: %v, mode %v, capabilities %q", c.name, errno, k.attr.Mode, k.caps)
		}
	}
	f, k, id := session(t, 0) // a client that has not agreed does it itself
	if errno := f.Setattr(asked(id, 9), &fp.SetattrIn{Valid: fp.FattrSize | fp.FattrKillSuidgid}, new(fp.AttrOut)); errno != 0 || k.attr.Mode&both != both || k.caps == nil {
		t.Errorf("not agreed: %v, mode %v, capabilities %q", errno, k.attr.Mode, k.caps)
	}
}

// TestCreateExisting: a CREATE that finds a file truncates it, and ends its privileges.
func TestCreateExisting(t *testing.T) {
	const both = fs.ModeSetuid | fs.ModeSetgid
	for kill, left := range map[uint32]fs.FileMode{0: both, fp.OpenKillSuidgid: 0} {
		f, k, _ := session(t, fp.InitHandleKillprivV2)
		k.data = []byte("data")
		in := fp.CreateIn{Flags: unix.O_WRONLY | unix.O_TRUNC, Mode: 0o666, OpenFlags: kill}
		errno := f.Create(asked(fp.RootID, 9), &in, fp.Name("file\x00"), new(fp.CreateOut))
		if errno != 0 || len(k.data) != 0 || k.caps != nil || k.attr.Mode&both != left {
			t.Errorf("%d: %v, %q, capabilities %q, mode %v", kill, errno, k.data, k.caps, k.attr.Mode)
		}
	}
}

// TestPanic: a method that panics costs its request.
func TestPanic(t *testing.T) {
	dir := mounttest.Mount(t, "kept")
	for range 3 {
		if _, err := os.Stat(filepath.Join(dir, "panic")); !errors.Is(err, unix.EIO) {
			t.Errorf("%v, want EIO", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenFlags: what Open gets with and without the kernel's write-back.
func TestOpenFlags(t *testing.T) {
	for _, c := range []struct {
		offered   fp.InitFlags
		in, flags int
	}{
		{0, unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY | unix.O_APPEND},
		{fp.InitWritebackCache, unix.O_WRONLY | unix.O_APPEND, unix.O_RDWR},
		{fp.InitWritebackCache, unix.O_RDONLY, unix.O_RDONLY},
	} {
		f, k, id := session(t, c.offered)
		if errno := f.Open(asked(id, 0), &fp.OpenIn{Flags: uint32(c.in)}, new(fp.OpenOut)); errno != 0 || k.opened != c.flags {
			t.Errorf("%#x with %v: %v, %#x", c.in, c.offered, errno, k.opened)
		}
	}
	f, k, id := session(t, fp.InitWritebackCache)
	k.unreadable = true
	if errno := f.Open(asked(id, 0), &fp.OpenIn{Flags: unix.O_WRONLY}, new(fp.OpenOut)); errno != 0 || k.opened != unix.O_WRONLY {
		t.Errorf("a file that may not be read: %v, %#x", errno, k.opened)
	}
}
