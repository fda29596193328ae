package helper_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/govirtiofs/govirtiofs/events/helper"
)

// A directory that is no share, or one whose daemon does not tell of changes, ends the helper at once.
func ExampleWatch_noEvents() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	err = helper.Watch(context.Background(), dir, helper.Options{})
	fmt.Println(errors.Is(err, helper.ErrNoEvents))
	// Output: true
}
