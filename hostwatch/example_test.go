package hostwatch_test

import (
	"fmt"
	"log"
	"os"

	"github.com/govirtiofs/govirtiofs/hostwatch"
)

// What others change in a directory. It waits for them, so it is not run.
func ExampleWatcher() {
	w, err := hostwatch.New(hostwatch.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	dir, err := os.Open("/srv")
	if err != nil {
		log.Fatal(err)
	}
	if err := w.Add(int(dir.Fd()), 1); err != nil { // number 1 is ours
		log.Fatal(err)
	}
	for {
		list, err := w.Read(nil)
		if err != nil {
			log.Fatal(err)
		}
		for _, e := range list {
			fmt.Println(e.Op, e.Dir, e.Name)
		}
	}
}
