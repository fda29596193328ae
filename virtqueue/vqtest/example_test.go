package vqtest_test

import (
	"fmt"
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// noTest stands for the *testing.T that a test has.
type noTest struct{ testing.TB }

func (noTest) Helper()        {}
func (noTest) Cleanup(func()) {}

// A driver and a device on one ring. A test gives New its *testing.T, which an example does not have.
func ExampleNew() {
	d := vqtest.New(noTest{}, 4)
	request := d.DataAt()
	copy(d.Mem[request:], "ping")
	d.Request(0, request, 4, 64)
	d.Offer(0)

	queue, err := virtqueue.New(&d.Space, d.Config())
	if err != nil {
		panic(err)
	}
	if err := queue.Begin(); err != nil {
		panic(err)
	}
	var chain virtqueue.Chain
	more, err := queue.Pop(&chain)
	fmt.Println(more, err, chain.Readable()[0].Len, "bytes to read")
	queue.Push(&chain, 0)
	queue.Flush()
	queue.End()

	head, length, ok := d.Reap()
	fmt.Println(head, length, ok)
	// Output:
	// true <nil> 4 bytes to read
	// 0 0 true
}
