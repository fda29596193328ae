package vhostuser_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// A front-end's first message, as the back-end receives it.
func ExampleSocket() {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	frontend, err := vhostuser.OpenSocket(pair[0], vhostuser.ToBackend)
	if err != nil {
		panic(err)
	}
	defer func() { _ = frontend.Close() }()
	backend, err := vhostuser.OpenSocket(pair[1], vhostuser.ToBackend)
	if err != nil {
		panic(err)
	}
	defer func() { _ = backend.Close() }()

	m := &vhostuser.Message{Number: uint32(vhostuser.ReqGetFeatures), Flags: vhostuser.FlagVersion}
	if err := frontend.Send(m); err != nil {
		panic(err)
	}
	got, err := backend.Receive()
	if err != nil {
		panic(err)
	}
	defer got.Close()
	fmt.Println(got, got.Check(0))
	// Output: GET_FEATURES <nil>
}

// The message table says what a request looks like.
func ExampleFormatOf() {
	f := vhostuser.FormatOf(vhostuser.ToBackend, uint32(vhostuser.ReqSetVringNum))
	fmt.Printf("%s: a body of %d bytes, %d descriptors\n", f.Name, f.Body.Max, f.FDs.Max)

	// A body that is too short is found before anybody looks at it.
	m := &vhostuser.Message{Number: uint32(vhostuser.ReqSetVringNum), Body: make([]byte, 4)}
	fmt.Println(m.Check(0))
	// Output:
	// SET_VRING_NUM: a body of 8 bytes, 0 descriptors
	// body of 4 bytes, want 8
}
