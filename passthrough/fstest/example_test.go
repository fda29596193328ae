package fstest_test

import (
	"testing"

	"github.com/govirtiofs/govirtiofs/passthrough/fstest"
)

// The test of a file system that is mounted on /mnt and has no file flags. Functions of tests have a *testing.T, which an example
// does not, so it is not run.
func ExampleRun() {
	test := func(t *testing.T) { fstest.Run(t, "/mnt", "", "FileFlags") }
	_ = test
}
