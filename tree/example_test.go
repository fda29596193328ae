package tree_test

import (
	"fmt"
	"strings"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/tree"
)

// Files that a program makes up. Package server's examples show how a guest gets them.
func ExampleFS_Add() {
	t := tree.New(tree.Config{})
	if err := t.Add("etc/motd", 0o444, strings.NewReader("Hello\n")); err != nil {
		panic(err)
	}
	fmt.Println(t.Add("etc/motd", 0o444, strings.NewReader("Hello again\n")))

	var etc, motd fp.EntryOut
	t.Lookup(server.NewRequest(fp.InHeader{NodeID: fp.RootID}), fp.Name("etc\x00"), &etc)
	t.Lookup(server.NewRequest(fp.InHeader{NodeID: etc.NodeID}), fp.Name("motd\x00"), &motd)
	fmt.Printf("%o %o, %d bytes\n", etc.Attr.Mode, motd.Attr.Mode, motd.Attr.Size)
	// Output:
	// add etc/motd: file already exists
	// 40755 100444, 6 bytes
}
