package vqtest_test

import (
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// A ring of four entries in memory of its own, for the test of a device. Functions of tests have a *testing.T, which an example
// does not, so it is not run.
func ExampleNew() {
	test := func(t *testing.T) {
		d := vqtest.New(t, 4)
		copy(d.Mem[len(d.Mem)-4:], "ping")
	}
	_ = test
}
