package host_test

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/host"
)

// Two shares in one process: neither can take what is the other's.
func ExampleHost() {
	h, err := host.New(host.Options{Descriptors: 1000, ShareDescriptors: 100})
	if err != nil {
		panic(err)
	}
	first, err := h.Descriptors()
	if err != nil {
		panic(err)
	}
	second, err := h.Descriptors()
	if err != nil {
		panic(err)
	}
	fmt.Println("the first takes 900:", first.Take(900))
	fmt.Println("and one more:", first.Take(1))
	fmt.Println("the second takes 100:", second.Take(100))
	first.Close()
	fmt.Println("and 900 more, when the first is gone:", second.Take(900))
	// Output:
	// the first takes 900: true
	// and one more: false
	// the second takes 100: true
	// and 900 more, when the first is gone: true
}
