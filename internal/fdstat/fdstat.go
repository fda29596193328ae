// Package fdstat examines and closes descriptors that another process has sent, without
// waiting for a file system's server. The file can be on a FUSE or network file system
// whose server never answers. Then fstat(2), fstatfs(2) and close(2) wait for that
// server.
package fdstat

import (
	"os"

	"golang.org/x/sys/unix"
)

// Info is what the kernel knows about a descriptor's file without asking a server.
type Info struct {
	Mode      uint16 // kind (S_IFMT) and permissions; 0 for an eventfd and its like
	Dev, Ino  uint64
	Links     uint32 // names of the file
	Size      int64  // bytes
	BlockSize int64  // bytes; of hugetlbfs and memfds on it, the size of a page
}

// Stat looks at fd. Attributes of a remote file may be old (statx(2), AT_STATX_DONT_SYNC).
func Stat(fd int) (Info, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st)
	if err != nil {
		return Info{}, os.NewSyscallError("statx", err)
	}
	return Info{
		Mode: st.Mode, Links: st.Nlink, Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino,
		Size: int64(st.Size), BlockSize: int64(st.Blksize),
	}, nil
}

// Kind is the kind of file, S_IFMT bits.
func (i *Info) Kind() uint16 { return i.Mode & unix.S_IFMT }

// Close closes fd. It closes files and directories on a goroutine of their own, because
// some file systems wait for their server.
func Close(fd int) {
	info, err := Stat(fd)
	if err == nil {
		switch info.Kind() {
		case unix.S_IFREG, unix.S_IFDIR:
			go func() { _ = unix.Close(fd) }()
			return
		}
	}
	_ = unix.Close(fd)
}
