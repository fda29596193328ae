package events_test

import (
	"log"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// A directory of the host whose changes a guest hears of, if govirtiofs-guest watch runs there. It does not end, so it is not
// run.
func ExampleNew() {
	root, err := unix.Open("/srv", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	files, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc})
	if err != nil {
		log.Fatal(err)
	}
	told, err := events.New(files, events.Options{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(govirtiofs.ListenAndServe("/run/srv.sock", "srv", told))
}
