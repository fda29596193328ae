package doctor

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// timeoutOfRename is the error of a read from a busy daemon. The listener had
// another name before it was renamed, and the kernel still returns the old name.
func timeoutOfRename(t *testing.T) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.new")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	if err == nil || !strings.Contains(err.Error(), "s.new") {
		t.Fatalf("reading: %v; want a timeout that names the file", err)
	}
	return fmt.Errorf("vhost-user: %w", err)
}

func TestNoAnswer(t *testing.T) {
	timeout := timeoutOfRename(t)
	reset := &net.OpError{Op: "read", Net: "unix", Addr: &net.UnixAddr{Name: "/run/s.new"}, Err: io.ErrUnexpectedEOF}
	for name, test := range map[string]struct {
		socket       *Socket
		err          error
		text, remedy string
	}{
		"busy":           {&Socket{Connected: 1, Owners: []int{7}, Front: []int{9}}, timeout, "no answer in 5s: process 7 is busy with process 9", "--socket-path"},
		"busy workers":   {&Socket{Connected: 1, Owners: []int{7, 8}, Front: []int{9}}, timeout, "no answer in 5s: processes 7, 8 are busy with process 9", "--socket-path"},
		"busy, unseen":   {&Socket{Connected: 1, Owners: []int{7}}, timeout, "process 7 is busy with a process (of another user)", "--socket-path"},
		"closed":         {&Socket{Connected: 1, Owners: []int{7}, Front: []int{9}}, os.NewSyscallError("connect", unix.ECONNREFUSED), "connection refused: process 7 is busy with process 9", "--socket-path"},
		"refuses":        {&Socket{}, os.NewSyscallError("connect", unix.ECONNREFUSED), "connection refused", "the daemon's messages"},
		"hangs":          {&Socket{Owners: []int{7}}, timeout, "no answer in 5s", "the daemon's messages"},
		"nothing known":  {nil, timeout, "no answer in 5s", "the daemon's messages"},
		"hangs up":       {&Socket{Connected: 1, Front: []int{9}}, fmt.Errorf("INIT: %w", reset), "INIT: read: unexpected EOF", "the daemon's messages"},
		"does not exist": {nil, &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: "/run/s"}, Err: os.ErrNotExist}, "dial unix /run/s: file does not exist", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Report{}
			ExamineAnswer(r, test.socket, nil, test.err)
			expectFinding(t, r, Fail, "probe", test.text, test.remedy)
			if strings.Contains(r.Checks[0].Text, "s.new") {
				t.Errorf("an internal name is shown: %s", r.Checks[0].Text)
			}
		})
	}
}
