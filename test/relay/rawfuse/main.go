// Command rawfuse is a FUSE program without a library: it opens /dev/fuse and mounts by itself, and serves one file,
// "hello", in the protocol's version 7.9.
package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const text = "hello, guest\n"

// Numbers of requests.
const (
	opLookup, opForget, opGetattr, opOpen, opRead, opStatfs               = 1, 2, 3, 14, 15, 17
	opRelease, opFlush, opInit, opOpendir, opReaddir, opReleasedir        = 18, 25, 26, 27, 28, 29
	root, hello                                                    uint64 = 1, 2
)

func main() {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("rawfuse", os.Args[1], "fuse", unix.MS_NOSUID|unix.MS_NODEV,
			fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, b)
		if err != nil || n < 40 {
			return
		}
		if r, send := answer(b[:n]); send {
			if _, err := unix.Write(fd, r); err != nil {
				return
			}
		}
	}
}

var order = binary.LittleEndian

// answer is the reply to a request, if it has one.
func answer(b []byte) (reply []byte, send bool) {
	body, errno := []byte(nil), unix.Errno(0)
	node := order.Uint64(b[16:])
	in := b[40:]
	switch order.Uint32(b[4:]) {
	case opForget:
		return nil, false
	case opInit:
		body = make([]byte, 24)
		order.PutUint32(body, 7)
		order.PutUint32(body[4:], 9)
		order.PutUint32(body[20:], 128<<10)
	case opLookup:
		if node != root || string(in) != "hello\x00" {
			errno = unix.ENOENT
			break
		}
		body = make([]byte, 40)
		order.PutUint64(body, hello)
		body = append(body, attributes(hello)...)
	case opGetattr:
		body = append(make([]byte, 16), attributes(node)...)
	case opOpen, opOpendir:
		body = make([]byte, 16)
	case opRead:
		from := min(int(order.Uint64(in[8:])), len(text))
		body = []byte(text[from:min(len(text), from+int(order.Uint32(in[16:])))])
	case opReaddir:
		if order.Uint64(in[8:]) == 0 {
			body = make([]byte, 32)
			order.PutUint64(body, hello)
			order.PutUint64(body[8:], 1)
			order.PutUint32(body[16:], 5)
			order.PutUint32(body[20:], unix.S_IFREG>>12)
			copy(body[24:], "hello")
		}
	case opStatfs:
		body = make([]byte, 80)
	case opFlush, opRelease, opReleasedir:
	default:
		errno = unix.ENOSYS
	}
	reply = make([]byte, 16, 16+len(body))
	order.PutUint32(reply, uint32(16+len(body)))
	order.PutUint32(reply[4:], uint32(-int32(errno)))
	copy(reply[8:16], b[8:16])
	return append(reply, body...), true
}

// attributes is struct fuse_attr.
func attributes(node uint64) []byte {
	a := make([]byte, 88)
	order.PutUint64(a, node)
	mode, links, size := uint32(unix.S_IFDIR|0o755), uint32(2), 0
	if node == hello {
		mode, links, size = unix.S_IFREG|0o444, 1, len(text)
	}
	order.PutUint64(a[8:], uint64(size))
	order.PutUint32(a[60:], mode)
	order.PutUint32(a[64:], links)
	order.PutUint32(a[80:], 4096)
	return a
}
