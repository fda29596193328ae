package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/relay"
)

// small is a FUSE program in the same process. It has only INIT.
type small struct{ asked chan fp.Opcode }

// Mount implements relay.Source. Package program has one for unmodified programs.
func (s small) Mount(context.Context) (*relay.Mounted, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go s.serve(os.NewFile(uintptr(pair[1]), "program"), done)
	return &relay.Mounted{Socket: os.NewFile(uintptr(pair[0]), "relay"), Type: "fuse.small", Done: done}, nil
}

func (s small) serve(dev *os.File, done chan struct{}) {
	defer close(done)
	defer func() { _ = dev.Close() }()
	for request := make([]byte, 1<<20); ; {
		n, err := dev.Read(request)
		if n == 0 || err != nil {
			return
		}
		in, _, _ := fp.View[fp.InHeader](request[:n])
		s.asked <- fp.Opcode(in.Opcode)
		reply := []byte{}
		out := fp.OutHeader{Unique: in.Unique, Error: -int32(unix.ENOSYS)}
		if fp.Opcode(in.Opcode) == fp.OpInit {
			out.Error = 0
			reply = fp.Bytes(&fp.InitOut{Major: fp.KernelVersion, Minor: 31, MaxWrite: 1 << 17})
		}
		out.Len = uint32(fp.Size[fp.OutHeader]() + len(reply))
		_, _ = dev.Write(append(fp.Bytes(&out), reply...))
	}
}

// The relay's session with a program begins before any client is there.
func ExampleNew() {
	program := small{make(chan fp.Opcode, 10)}
	fs, err := relay.New(context.Background(), program, relay.Options{Log: slog.New(slog.DiscardHandler)})
	fmt.Println("New:", err)
	fmt.Println("the program was asked:", <-program.asked)
	fs.Close()
	// Output:
	// New: <nil>
	// the program was asked: INIT
}
