// Command mount9p mounts 9p over vsock, for a comparison: the kernel takes any socket that it is given.
//
//	mount9p CID PORT EXPORT DIR
package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if err := mount(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mount9p:", err)
		os.Exit(1)
	}
}

func mount(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("want CID PORT EXPORT DIR, not %q", args)
	}
	cid, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: uint32(cid), Port: uint32(port)}); err != nil {
		return err
	}
	// As FUSE without options: data that was read is kept, writes go to the host, 128 KiB at most in one.
	return unix.Mount("vsock", args[3], "9p", 0, fmt.Sprintf(
		"trans=fd,rfdno=%d,wfdno=%d,version=9p2000.L,uname=root,access=client,cache=readahead,msize=%d,aname=%s", fd, fd, 128<<10+24, args[2]))
}
