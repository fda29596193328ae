package program_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/govirtiofs/govirtiofs/relay/program"
)

// A program is started, and its file system is at the other end of a socket.
func Example() {
	// The main function begins with: if program.RunChild() { return }
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	p, err := program.New(program.Options{Args: []string{self, asProgram, "serve", "{mount}"}})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	m, err := p.Mount(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Socket.Close()
	fmt.Println("a file system of type", m.Type)
	// Output: a file system of type fuse.test
}
