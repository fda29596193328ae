// Command rawfuse is a FUSE program without a library: it opens /dev/fuse and mounts by itself, and serves one file,
// "hello", in the protocol's version 7.9. With "changes" as a second argument it speaks 7.18, serves a file "gone", too, and says that
// all is good for an hour; at SIGUSR1 it changes all that behind its kernel's back, and notifies it. With other second
// arguments it does what programs should not.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What there is. It is guarded by mu.
var (
	mu       sync.Mutex
	text     = "hello, guest\n"
	modified uint64
	others   = map[string]uint64{}
	changing bool
	// unknownMinor has INIT be answered with a version that nobody knows.
	unknownMinor bool
)

// Numbers of requests.
const (
	opLookup, opForget, opGetattr, opOpen, opRead, opStatfs               = 1, 2, 3, 14, 15, 17
	opRelease, opFlush, opInit, opOpendir, opReaddir, opReleasedir        = 18, 25, 26, 27, 28, 29
	opBatchForget                                                         = 42
	root, hello, gone, made                                        uint64 = 1, 2, 3, 4
)

// Codes of notifications.
const notifyInvalInode, notifyInvalEntry, notifyDelete = 2, 3, 6

// misbehave does what the second argument says before there is a mount.
func misbehave(how string) {
	switch how {
	case "usage":
		fmt.Println("Usage: rawfuse MOUNTPOINT [HOW]")
		os.Exit(0)
	case "ends":
		fmt.Fprintln(os.Stderr, "there is no image")
		os.Exit(3)
	}
}

func main() {
	how := ""
	if len(os.Args) > 2 {
		how = os.Args[2]
	}
	misbehave(how)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("rawfuse", os.Args[1], "fuse", unix.MS_NOSUID|unix.MS_NODEV,
			fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	unknownMinor = how == "minor"
	if how == "twice" {
		if err := unix.Mount("rawfuse", os.Args[1], "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if changing = how == "changes"; changing {
		others["gone"] = gone
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGUSR1)
		go func() {
			for range signals {
				change(fd)
			}
		}()
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

// change changes what there is, and then tells the kernel of it.
func change(fd int) {
	mu.Lock()
	text, modified = "changed\n", 1_000_000_000
	delete(others, "gone")
	others["new"] = made
	mu.Unlock()
	words := func(list ...uint64) (b []byte) {
		for _, w := range list {
			b = order.AppendUint64(b, w)
		}
		return b
	}
	notify(fd, notifyInvalInode, words(hello, 0, 0))
	notify(fd, notifyDelete, append(words(root, gone, uint64(len("gone"))), "gone\x00"...))
	notify(fd, notifyInvalEntry, append(words(root, uint64(len("new"))), "new\x00"...))
}

func notify(fd int, code uint32, body []byte) {
	b := order.AppendUint32(nil, uint32(16+len(body)))
	b = order.AppendUint32(b, code)
	if _, err := unix.Write(fd, append(order.AppendUint64(b, 0), body...)); err != nil {
		fmt.Fprintln(os.Stderr, "notification:", err)
	}
}

// answer is the reply to a request, if it has one.
func answer(b []byte) (reply []byte, send bool) {
	mu.Lock()
	defer mu.Unlock()
	body, errno := []byte(nil), unix.Errno(0)
	node := order.Uint64(b[16:])
	in := b[40:]
	switch order.Uint32(b[4:]) {
	case opForget, opBatchForget:
		return nil, false
	case opInit:
		body = make([]byte, 24)
		order.PutUint32(body, 7)
		order.PutUint32(body[4:], 9)
		if changing {
			order.PutUint32(body[4:], 18)
		} else if unknownMinor {
			order.PutUint32(body[4:], 99)
		}
		order.PutUint32(body[20:], 128<<10)
	case opLookup:
		id := others[strings.TrimSuffix(string(in), "\x00")]
		if string(in) == "hello\x00" {
			id = hello
		}
		if node != root || id == 0 {
			errno = unix.ENOENT
			break
		}
		body = make([]byte, 40)
		order.PutUint64(body, id)
		order.PutUint64(body[16:], valid())
		order.PutUint64(body[24:], valid())
		body = append(body, attributes(id)...)
	case opGetattr:
		body = append(order.AppendUint64(nil, valid()), make([]byte, 8)...)
		body = append(body, attributes(node)...)
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

// valid is for how many seconds names and attributes are good.
func valid() uint64 {
	if changing {
		return 3600
	}
	return 0
}

// attributes is struct fuse_attr.
func attributes(node uint64) []byte {
	a := make([]byte, 88)
	order.PutUint64(a, node)
	mode, links, size := uint32(unix.S_IFDIR|0o755), uint32(2), 0
	if node != root {
		mode, links, size = unix.S_IFREG|0o444, 1, len(text)
	}
	order.PutUint64(a[8:], uint64(size))
	order.PutUint64(a[32:], modified)
	order.PutUint32(a[60:], mode)
	order.PutUint32(a[64:], links)
	order.PutUint32(a[80:], 4096)
	return a
}
