package wire_test

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/events/wire"
)

// What a share tells the helper in its guest when a file was renamed on the host.
func ExampleParse() {
	r := wire.Record{Op: wire.Move, Seq: 7, Path: "a/old", NewPath: "b/new"}
	b := r.Append(nil)
	got, rest, err := wire.Parse(b)
	fmt.Println(got.Op == wire.Move, got.Seq, got.Path, got.NewPath, len(rest), err)
	_, _, err = wire.Parse(b[:3])
	fmt.Println(err)
	// Output:
	// true 7 a/old b/new 0 <nil>
	// wire: not a record
}
