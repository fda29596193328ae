package virtqueue_test

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// A driver offers one request; the device reads it and writes a reply.
func ExampleQueue() {
	// The guest's memory. The driver has its descriptor table at 0, the available ring at
	// 0x100, the used ring at 0x200, the request at 0x1000 and room for the reply at 0x2000.
	mem, err := unix.Mmap(-1, 0, 0x3000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	const guest, user = 0x10000, 0x7f0000000000 // where it is for the guest and for the front-end
	memory, err := virtqueue.NewMemory([]*virtqueue.Region{{
		GuestAddr: guest, UserAddr: user, Host: mem, Release: func() { _ = unix.Munmap(mem) },
	}})
	if err != nil {
		panic(err)
	}
	var space virtqueue.Space
	space.Store(memory)
	queue, err := virtqueue.New(&space, virtqueue.Config{Size: 4, Desc: user, Avail: user + 0x100, Used: user + 0x200})
	if err != nil {
		panic(err)
	}

	// The driver: two descriptors, the first of which is in the available ring.
	le := binary.LittleEndian
	describe := func(i int, addr uint64, length uint32, flags, next uint16) {
		d := mem[16*i:]
		le.PutUint64(d, addr)
		le.PutUint32(d[8:], length)
		le.PutUint16(d[12:], flags)
		le.PutUint16(d[14:], next)
	}
	copy(mem[0x1000:], "ping")
	describe(0, guest+0x1000, 4, 1, 1)  // VIRTQ_DESC_F_NEXT: the reply's room follows
	describe(1, guest+0x2000, 64, 2, 0) // VIRTQ_DESC_F_WRITE
	le.PutUint16(mem[0x100+4:], 0)      // ring[0]: descriptor 0
	le.PutUint16(mem[0x100+2:], 1)      // idx

	// The device.
	if err := queue.Begin(); err != nil {
		panic(err)
	}
	var chain virtqueue.Chain
	for {
		ok, err := queue.Pop(&chain)
		if err != nil || !ok {
			break
		}
		in, out := chain.Readable()[0], chain.Writable()[0]
		fmt.Printf("request: %s, room for %d bytes\n", memory.Guest(guest+0x1000, in.Len), out.Len)
		queue.Push(&chain, uint32(copy(memory.Guest(guest+0x2000, out.Len), "pong")))
	}
	fmt.Println("call the driver:", queue.Flush())
	queue.End()

	// The driver again.
	fmt.Printf("used %d, length %d: %s\n", le.Uint16(mem[0x200+2:]), le.Uint32(mem[0x200+8:]), mem[0x2000:0x2004])
	space.Store(nil)
	// Output:
	// request: ping, room for 64 bytes
	// call the driver: true
	// used 1, length 4: pong
}
