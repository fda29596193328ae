package hostwatch_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/govirtiofs/govirtiofs/hostwatch"
)

// What happens in a directory. With inotify it may be this process that does it; fanotify, which is used where it is there,
// leaves that out.
func ExampleWatcher() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	path, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(path) }()
	w, err := hostwatch.New(hostwatch.Options{Inotify: true})
	check(err)
	defer func() { _ = w.Close() }()
	dir, err := os.Open(path)
	check(err)
	defer func() { _ = dir.Close() }()
	const number = 1 // ours for this directory
	check(w.Add(int(dir.Fd()), number))

	check(os.Mkdir(filepath.Join(path, "new"), 0o755))
	list, err := w.Read(nil) // waits
	check(err)
	for _, e := range list {
		fmt.Println(e.Dir, e.Op, e.Name, e.IsDir)
	}
	// Output: 1 created new true
}
