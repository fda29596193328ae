package vsock

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestHybridProtocol: the protocol of the Unix sockets, compared with the sources of Firecracker
// (src/vmm/src/devices/virtio/vsock: unix/muxer.rs, csm/connection.rs) and cloud-hypervisor
// (virtio-devices/src/vsock, the same files), as of November 2026. Each row is what those two do and what
// the device does; it takes whatever one of them takes.
//
//	point                               Firecracker     cloud-hypervisor   the device
//	guest to host                       PATH_PORT       PATH_PORT          PATH_PORT
//	nobody listens there                RST             RST                RST
//	the answer to CONNECT               "OK N\n"        "OK N\n"           "OK N\n"
//	N, the host's port                  2^30 to 2^31-1  2^30 to 2^31-1     2^30 to 2^31-1, the same first one
//	"OK" counts as the guest's bytes    no              no                 no
//	nobody listens in the guest         socket closes   socket closes      socket closes
//	the guest does not answer           2 s, RST        2 s, RST           2 s, RST
//	longest command                     32 bytes        31 bytes           32 bytes
//	bytes behind the command            the guest's     the guest's        the guest's
//	case of CONNECT                     any             all or none        any
//	blanks                              any             before and behind  any
//	                                                    the port
//	words behind the port               ignored         refused            ignored
//	a refused command                   closes, silent  closes, silent     closes, silent
//	a command in pieces                 may be refused  waits              waits, 2 s
//	connections                         1023            1023               1023
//	room for what the guest sends       64 KiB          64 KiB             64 KiB
//	the guest shuts down both           RST when sent   RST when sent      RST when sent, or after 2 s
//	                                    or 2 s          or 2 s
//	the guest shuts down its sending    nothing         nothing            the program reads the end
//	the program shuts down its sending  ends both       ends both          SHUTDOWN, the guest may send on
//	the program closes                  SHUTDOWN, 2 s   SHUTDOWN, 2 s      SHUTDOWN, 2 s
func TestHybridProtocol(t *testing.T) {
	if maxConns != 1023 || bufferSize != 64<<10 || connectTime != 2*time.Second || lingerTime != 2*time.Second ||
		firstPort != 1<<30 || endPort != 1<<31 || maxCommand != 32 {
		t.Error("a limit is another than those VMMs'")
	}
	g, path := newGuest(t)
	defer g.listenHybrid(path)()
	for _, c := range []struct {
		command                 string
		firecracker, hypervisor bool // whether it connects to port 77
	}{
		{"CONNECT 77\n", true, true},
		{"connect 77\n", true, true},
		{"Connect 77\n", true, false},
		{"CONNECT  77 \n", true, true},
		{"  CONNECT 77\n", true, false},
		{"CONNECT\t77\n", true, false},
		{"CONNECT 77\r\n", true, true},
		{"CONNECT 77 more\n", true, false},
		{"CONNECT " + strings.Repeat("0", 22) + "77", true, false},
		{"CONNECT " + strings.Repeat("0", 20) + "77\n", true, true},
		{"CONNECT\n", false, false},
		{"CONNECT 77x\n", false, false},
		{"CONNECT 4294967296\n", false, false},
		{"CONNECT -77\n", false, false},
		{"HELLO 77\n", false, false},
		{"\n", false, false},
	} {
		s, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(s, c.command); err != nil {
			t.Fatal(err)
		}
		if !c.firecracker && !c.hypervisor {
			if b, err := io.ReadAll(s); err == nil && len(b) > 0 {
				t.Errorf("%q is answered with %q", c.command, b)
			}
			continue
		}
		h := g.want(opRequest)
		g.must(opResponse, 77, h.srcPort, nil)
		want := fmt.Sprintf("OK %d\n", h.srcPort)
		b := make([]byte, len(want))
		if _, err := io.ReadFull(s, b); err != nil || string(b) != want || h.dstPort != 77 {
			t.Errorf("%q: %q, port %d, %v", c.command, b, h.dstPort, err)
		}
		g.must(opReset, 77, h.srcPort, nil)
		_ = s.Close()
	}
}
