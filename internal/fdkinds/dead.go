package fdkinds

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// Dead opens a regular file of a FUSE file system whose server no longer answers. A process
// that waits for the file waits until release is called, or until the test ends. It needs
// root.
func Dead(t testing.TB) (k Kind, release func()) {
	t.Helper()
	guest.NeedRoot(t)
	dir := t.TempDir()
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	if err := unix.Mount("dead", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	// The file system lives as long as a process has its /dev/fuse open. Another process must
	// have it: if this one had to wait for the file at its own end, it would wait for itself.
	// That process is started before the file exists, because it would also wait when it
	// closes the file.
	holder := exec.Command("sleep", "120")
	holder.ExtraFiles = []*os.File{server}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { // ends all requests
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	t.Cleanup(release)
	served := make(chan error, 1)
	go func() { served <- serveUntilOpen(int(server.Fd())) }()
	fd, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		err = <-served
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		release()
		_ = unix.Close(fd)
	})
	return Kind{"file of a dead server", fd}, release
}

// serveUntilOpen answers requests up to and including an OPEN.
func serveUntilOpen(fuse int) error {
	const forever = 1 << 30
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fuse, b)
		if err != nil {
			return err
		}
		h, _, ok := fp.View[fp.InHeader](b[:n])
		if !ok {
			return unix.EINVAL
		}
		op, errno := fp.Opcode(h.Opcode), unix.Errno(0)
		var body []byte
		attr := fp.Attr{Ino: 2, Size: 1 << 20, Mode: unix.S_IFREG | 0o600, Nlink: 1}
		switch op {
		case fp.OpInit:
			body = fp.Bytes(&fp.InitOut{Major: 7, Minor: 31, MaxWrite: 4096})
		case fp.OpLookup:
			body = fp.Bytes(&fp.EntryOut{NodeID: 2, EntryValid: forever, AttrValid: forever, Attr: attr})
		case fp.OpGetattr:
			attr.Ino, attr.Mode = 1, unix.S_IFDIR|0o700
			body = fp.Bytes(&fp.AttrOut{AttrValid: forever, Attr: attr})
		case fp.OpOpen:
			body = fp.Bytes(&fp.OpenOut{Fh: 1})
		default:
			errno = unix.ENOSYS
		}
		out := fp.OutHeader{Unique: h.Unique, Error: -int32(errno)}
		out.Len = uint32(unsafe.Sizeof(out)) + uint32(len(body))
		if _, err := unix.Write(fuse, append(fp.Bytes(&out), body...)); err != nil || op == fp.OpOpen {
			return err
		}
	}
}
