package relay_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationReady: a service manager is told, and there is a socket for a VMM, when the program has mounted, and not before.
func TestIntegrationReady(t *testing.T) {
	guest.NeedRoot(t)
	b := newBench(t, users[0])
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: b.path("manager"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", b.path("manager"))
	wait := `echo is waiting; until [ -e "$1" ]; do sleep 0.1; done; exec "$2" "$0"`
	r := b.relay([]string{"--socket-path", b.path("sock")}, "sh", "-c", wait, "{mount}", b.path("go"), rawfuse)
	r.until("the program's output", func() bool { return strings.Contains(r.out.String(), "sh: is waiting") })
	told := make([]byte, 1000)
	if err := manager.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := manager.Read(told); err == nil {
		t.Errorf("before the program has mounted the manager is told %q", told[:n])
	}
	if unix.Access(b.path("sock"), unix.F_OK) == nil {
		t.Error("there is a socket before the program has mounted")
	}
	b.write("go", "", 0o644)
	if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := manager.Read(told)
		if err != nil {
			t.Fatalf("the manager is not told: %v", err)
		}
		if strings.Contains(string(told[:n]), "READY=1") {
			break
		}
	}
	if _, err := os.Stat(b.path("sock")); err != nil {
		t.Error(err)
	}
	r.stop()
}
