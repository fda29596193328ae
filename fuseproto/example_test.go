package fuseproto_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A request is a header and a body. Both are read in place, after they were copied to memory
// that no other process writes.
func ExampleView() {
	header := fp.InHeader{Opcode: uint32(fp.OpMkdir), Unique: 7, NodeID: fp.RootID}
	request := append(fp.Bytes(&header), fp.Bytes(&fp.MkdirIn{Mode: 0o755})...)
	request = append(request, "dir\x00"...)

	h, body, ok := fp.View[fp.InHeader](request)
	fmt.Println(fp.Opcode(h.Opcode), "in node", h.NodeID, ok)
	in, rest, ok := fp.View[fp.MkdirIn](body)
	fmt.Printf("mode %o %v\n", in.Mode, ok)
	name, _, errno := fp.ParseName(rest)
	fmt.Println(name, errno == 0)

	_, _, ok = fp.View[fp.MkdirIn](body[:4])
	fmt.Println("a short one:", ok)
	// Output:
	// MKDIR in node 1 true
	// mode 755 true
	// dir true
	// a short one: false
}

// A guest's name is one path component, or an error.
func ExampleParseName() {
	for _, b := range []string{"file\x00", "..\x00", "a/b\x00", "no end"} {
		name, _, errno := fp.ParseName([]byte(b))
		if errno != 0 {
			fmt.Printf("%q: %s\n", b, unix.ErrnoName(errno))
			continue
		}
		fmt.Printf("%q: %s\n", b, name)
	}
	// Output:
	// "file\x00": file
	// "..\x00": EINVAL
	// "a/b\x00": EINVAL
	// "no end": EINVAL
}
