package main

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax/stretch"
)

// TestStretcherKeepsConnection has the garbage collector look for files that nobody knows.
func TestStretcherKeepsConnection(t *testing.T) {
	client, helper, err := stretch.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(helper)
	c := stretcher(os.NewFile(uintptr(client), "client"))
	if c == nil {
		t.Fatal("no client")
	}
	for range 3 {
		runtime.GC()
	}
	if n, _, err := unix.Recvfrom(helper, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("the connection has ended: %d, %v", n, err)
	}
	runtime.KeepAlive(c)
}
