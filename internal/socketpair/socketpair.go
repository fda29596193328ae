// Package socketpair connects two parts of a test by a pair of sockets.
package socketpair

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// New returns both ends of a stream of the Unix domain, over which descriptors can be sent,
// too. The end of the test closes them, if they are still open.
func New(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}
