package server

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// NotImplemented is a FileSystem that answers ENOSYS. Embed it and write what
// you have. Init, Unmount and StartThread succeed, Forget, Destroy, StopThread and
// Close do nothing, and the state can neither be saved nor loaded.
type NotImplemented struct{}

var _ FileSystem = NotImplemented{}

var errNoState = errors.New("this file system can't move to another process")

func (NotImplemented) Init(*InitParams) unix.Errno               { return 0 }
func (NotImplemented) Destroy()                                  {}
func (NotImplemented) Close()                                    {}
func (NotImplemented) Unmount(*Request) unix.Errno               { return 0 }
func (NotImplemented) StartThread(*Thread) error                 { return nil }
func (NotImplemented) StopThread(*Thread)                        {}
func (NotImplemented) Backing(uint64, fp.Name) uint64            { return 0 }
func (NotImplemented) Path(uint64) string                        { return "" }
func (NotImplemented) SaveState(*Thread, io.Writer) error        { return errNoState }
func (NotImplemented) Leave(*Thread)                             {}
func (NotImplemented) Return(*Thread) string                     { return "" }
func (NotImplemented) Statfs(*Request, *fp.Kstatfs) unix.Errno   { return unix.ENOSYS }
func (NotImplemented) Syncfs(*Request) unix.Errno                { return unix.ENOSYS }
func (NotImplemented) Forget(*fuse.Cell, uint64, uint64)         {}
func (NotImplemented) Unlink(*Request, fp.Name) unix.Errno       { return unix.ENOSYS }
func (NotImplemented) Rmdir(*Request, fp.Name) unix.Errno        { return unix.ENOSYS }
func (NotImplemented) Access(*Request, *fp.AccessIn) unix.Errno  { return unix.ENOSYS }
func (NotImplemented) Flush(*Request, *fp.FlushIn) unix.Errno    { return unix.ENOSYS }
func (NotImplemented) Fsync(*Request, *fp.FsyncIn) unix.Errno    { return unix.ENOSYS }
func (NotImplemented) Fsyncdir(*Request, *fp.FsyncIn) unix.Errno { return unix.ENOSYS }
func (NotImplemented) Resume(*Thread, bool) (string, error)      { return "", errNoState }
func (NotImplemented) LoadState(*Thread, io.Reader) (string, error) {
	return "", errNoState
}
func (NotImplemented) Release(*Request, *fp.ReleaseIn) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Releasedir(*Request, *fp.ReleaseIn) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Lookup(*Request, fp.Name, *fp.EntryOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Mknod(*Request, *fp.MknodIn, fp.Name, *fp.EntryOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Mkdir(*Request, *fp.MkdirIn, fp.Name, *fp.EntryOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Symlink(_ *Request, _, _ fp.Name, _ *fp.EntryOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Link(*Request, *fp.LinkIn, fp.Name, *fp.EntryOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Rename(_ *Request, _ *fp.Rename2In, _, _ fp.Name) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Getattr(*Request, *fp.GetattrIn, *fp.AttrOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Setattr(*Request, *fp.SetattrIn, *fp.AttrOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Statx(*Request, *fp.StatxIn, *fp.StatxOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Readlink(*Request, []byte) (int, unix.Errno) { return 0, unix.ENOSYS }
func (NotImplemented) Open(*Request, *fp.OpenIn, *fp.OpenOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Create(*Request, *fp.CreateIn, fp.Name, *fp.CreateOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Tmpfile(*Request, *fp.CreateIn, *fp.CreateOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Read(*Request, *fp.ReadIn, fuse.Buffers) (int, unix.Errno) {
	return 0, unix.ENOSYS
}
func (NotImplemented) Write(*Request, *fp.WriteIn, fuse.Buffers) (int, unix.Errno) {
	return 0, unix.ENOSYS
}
func (NotImplemented) Fallocate(*Request, *fp.FallocateIn) unix.Errno { return unix.ENOSYS }
func (NotImplemented) Lseek(*Request, *fp.LseekIn, *fp.LseekOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) CopyFileRange(*Request, *fp.CopyFileRangeIn) (uint64, unix.Errno) {
	return 0, unix.ENOSYS
}
func (NotImplemented) Ioctl(*Request, *fp.IoctlIn, []byte, *fp.IoctlOut, []byte) (int, unix.Errno) {
	return 0, unix.ENOSYS
}
func (NotImplemented) Poll(*Request, *fp.PollIn, *fp.PollOut) unix.Errno { return unix.ENOSYS }
func (NotImplemented) Opendir(*Request, *fp.OpenIn, *fp.OpenOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Readdir(*Request, *fp.ReadIn, *DirWriter) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Readdirplus(*Request, *fp.ReadIn, *DirWriter) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Getxattr(*Request, fp.Name, []byte) (int, unix.Errno) {
	return 0, unix.ENOSYS
}
func (NotImplemented) Listxattr(*Request, []byte) (int, unix.Errno) { return 0, unix.ENOSYS }
func (NotImplemented) Setxattr(*Request, *fp.SetxattrIn, fp.Name, []byte) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Removexattr(*Request, fp.Name) unix.Errno { return unix.ENOSYS }
func (NotImplemented) Getlk(*Request, *fp.LkIn, *fp.LkOut) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) Setlk(*Request, *fp.LkIn, bool) unix.Errno { return unix.ENOSYS }
func (NotImplemented) SetupMapping(*Request, *fp.SetupMappingIn) unix.Errno {
	return unix.ENOSYS
}
func (NotImplemented) RemoveMapping(*Request, []fp.RemoveMappingOne) unix.Errno {
	return unix.ENOSYS
}
