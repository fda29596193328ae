package relay

import (
	"context"
	"os"
)

// Source starts the program whose file system is relayed.
type Source interface {
	// Mount starts the program and returns when it has asked for its mount. If it is called again, what is left
	// of the program of before is ended first. It fails if the program ends, or mounts nothing.
	Mount(ctx context.Context) (*Mounted, error)
}

// Mounted is a program that takes its socket for a mounted file system's /dev/fuse.
type Mounted struct {
	// Socket is this side of a SOCK_SEQPACKET pair: each packet is one FUSE message. It does not block. The caller
	// owns it; a program ends when it is closed, or soon after.
	Socket *os.File
	// Type, Source, Flags and Options are what the program gave to mount(2): "fuse.sshfs", "user@host:", MS_NOSUID,
	// "fd=4,rootmode=40000,max_read=65536". All are the program's words and not checked. They are empty if the program has
	// inherited its descriptor instead of mounting.
	Type, Source string
	Flags        uintptr
	Options      string
	// Process is what requests name as the process that asks: a number of the program's pid namespace. 0 is none. The client
	// can't choose it: its own numbers mean nothing to the program.
	Process uint32
	// Done is closed when no process of the program is left.
	Done <-chan struct{}
	// Err says why the program has ended, in one line with its name, when Done is closed; nil if that is not known. A nil
	// Err never knows it.
	Err func() error
}
