package stream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing/fstest"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
)

// kernel is a Device that stands for /dev/fuse: it asks what is in requests, and prints the replies. It asks
// again when the reply has come.
type kernel struct {
	requests chan []byte
	more     [][]byte
}

func (k *kernel) Read(b ...[]byte) (int, error) {
	request, ok := <-k.requests
	if !ok {
		return 0, io.EOF // unmounted
	}
	n := 0
	for _, p := range b {
		n += copy(p, request[n:])
	}
	return n, nil
}

func (k *kernel) Answer(b ...[]byte) error {
	var reply []byte
	for _, p := range b {
		reply = append(reply, p...)
	}
	h, body, _ := fp.View[fp.OutHeader](reply)
	fmt.Printf("reply to %d: errno %d", h.Unique, -h.Error)
	if entry, _, ok := fp.View[fp.EntryOut](body); ok && h.Unique == 2 {
		fmt.Printf(", a file of %d bytes", entry.Attr.Size)
	}
	fmt.Println()
	if len(k.more) == 0 {
		close(k.requests)
		return nil
	}
	k.requests <- k.more[0]
	k.more = k.more[1:]
	return nil
}

// request is a FUSE message.
func request(op fp.Opcode, unique uint64, body []byte) []byte {
	size := fp.Size[fp.InHeader]()
	h := fp.InHeader{Len: uint32(size + len(body)), Opcode: uint32(op), Unique: unique, NodeID: fp.RootID}
	return append(append([]byte{}, fp.Bytes(&h)...), body...)
}

// Both sides in one process, over a Unix socket, with a Device in place of /dev/fuse.
func ExampleClient_Serve() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		panic(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	files := iofs.New(fstest.MapFS{"hello": {Data: []byte("hello\n")}})
	s, err := stream.New(server.New(files, server.Options{MaxWrite: stream.DefaultMaxWrite, Log: quiet}), stream.Options{Log: quiet})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()

	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
	c, err := stream.Dial(ctx, stream.ClientOptions{Dial: dial, Channels: 1, Log: quiet})
	if err != nil {
		panic(err)
	}
	init := fp.InitIn{Major: fp.KernelVersion, Minor: fp.KernelMinorVersion, Flags: uint32(fp.InitMaxPages)}
	k := &kernel{requests: make(chan []byte, 1), more: [][]byte{
		request(fp.OpLookup, 2, []byte("hello\x00")),
		request(fp.OpLookup, 3, []byte("nothing\x00")),
	}}
	k.requests <- request(fp.OpInit, 1, fp.Bytes(&init))
	fmt.Println("unmounted:", c.Serve([]stream.Device{k}))
	c.Close()
	stop()
	<-ended
	// Output:
	// reply to 1: errno 0
	// reply to 2: errno 0, a file of 6 bytes
	// reply to 3: errno 2
	// unmounted: <nil>
}
