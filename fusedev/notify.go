package fusedev

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Notify sends a notification to the kernel (fs/fuse/dev.c: fuse_notify): code and body, in one or more
// parts, as enum fuse_notify_code says. What the kernel does for it is done when Notify returns, so a
// goroutine that has a request of the same file to answer must not call it. The error is ENOENT, in an
// *os.PathError, if the kernel does not know what the body names.
func (m *Mount) Notify(code fp.NotifyCode, body ...[]byte) error {
	h := fp.OutHeader{Len: uint32(unsafe.Sizeof(fp.OutHeader{})), Error: int32(code)}
	for _, b := range body {
		h.Len += uint32(len(b))
	}
	conn, err := m.file.SyscallConn()
	if err != nil {
		return &os.PathError{Op: "notify", Path: "/dev/fuse", Err: err}
	}
	var failed error
	// Control keeps Close from giving the descriptor's number to another file meanwhile.
	err = conn.Control(func(fd uintptr) {
		_, failed = unix.Writev(int(fd), append([][]byte{fp.Bytes(&h)}, body...))
	})
	if err = errors.Join(err, failed); err != nil {
		return &os.PathError{Op: "notify", Path: "/dev/fuse", Err: err}
	}
	return nil
}
