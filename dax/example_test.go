package dax_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/govirtiofs/govirtiofs/dax"
)

// A window in this process, and a file in it.
func ExampleTable() {
	const page = 4096
	file, err := os.CreateTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteAt([]byte("in the page cache"), 2*page); err != nil {
		panic(err)
	}

	window, err := dax.NewLocal(16 * page)
	if err != nil {
		panic(err)
	}
	defer func() { _ = window.Close() }()
	table := dax.NewTable(window.Size(), page)
	table.Attach(window)

	// SETUPMAPPING: the guest chooses the place.
	m := dax.Mapping{Offset: 8 * page, Length: page, File: 1, FileOffset: 2 * page}
	fmt.Println("map:", table.Map(int(file.Fd()), m, nil))
	fmt.Printf("%s\n", window.Bytes()[m.Offset:][:17])

	m.Offset += 7 // a guest may ask for anything
	fmt.Println("refused:", errors.Is(table.Map(int(file.Fd()), m, nil), dax.ErrRange))

	// REMOVEMAPPING.
	fmt.Println("unmap:", table.Unmap([]dax.Range{{Offset: 8 * page, Length: page}}, nil))
	fmt.Println(len(table.Mappings()), "mappings")
	// Output:
	// map: <nil>
	// in the page cache
	// refused: true
	// unmap: <nil>
	// 0 mappings
}
