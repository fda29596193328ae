package helper_test

import (
	"context"
	"log"

	"github.com/govirtiofs/govirtiofs/events/helper"
)

// A program of a guest that tells its kernel of the host's changes, as govirtiofs-guest watch does. It needs a share, so
// it is not run.
func ExampleWatch() {
	err := helper.Watch(context.Background(), "/mnt/share", helper.Options{Ready: func() { log.Print("changes are told") }})
	log.Fatal(err)
}
