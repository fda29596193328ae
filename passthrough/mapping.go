package passthrough

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// noFh stands in SetupMappingIn.Fh when the mapping is for the node: Linux sends
// nothing else (fs/fuse/dax.c: fuse_setup_one_mapping).
const noFh = ^uint64(0)

// mappingFDs is how many descriptors a mapping that is being made has at most: the file's,
// and the one that looks longer.
const mappingFDs = 2

// SetupMapping implements server.Mappings.
//
// A mapping is writable from the start if the file can be opened for that, whatever
// was asked for: Linux maps for reading, later asks for the same to be writable, and
// processes continue to use the range meanwhile, so that it can't be exchanged. This gives
// the guest's kernel no more than it has: it may open the same file for writing. A
// open file is not exceeded, though.
func (fs *FS) SetupMapping(r *server.Request, in *fp.SetupMappingIn) unix.Errno {
	d := fs.cfg.DAX
	if d == nil {
		return unix.ENOSYS
	}
	const known = fp.SetupMappingRead | fp.SetupMappingWrite
	if in.Flags&^known != 0 || in.Flags&known == 0 {
		return unix.EINVAL
	}
	want := intentRead
	if in.Flags&fp.SetupMappingWrite != 0 {
		want |= intentWrite
	}
	n, errno := fs.enterNode(r.Header.NodeID, want)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	switch {
	case n.isDir():
		return unix.EISDIR
	case !n.isReg():
		return unix.ENODEV // as mmap says
	}
	m := dax.Mapping{Offset: in.Moffset, Length: in.Len, File: n.ID(), FileOffset: in.Foffset,
		Writable: in.Flags&fp.SetupMappingWrite != 0}
	if err := d.Table.Check(m); err != nil {
		return unix.EINVAL
	}
	var f *openFile
	if in.Fh != noFh {
		if f, errno = fs.openFileToMap(r, in.Fh, m.Writable); errno != 0 {
			return errno
		}
		defer fs.openFiles.release(f)
	}
	fs.dax.maps(n)
	switch {
	case d.Table.Has(m):
		return 0
	case !r.MayWait:
		return server.WouldBlock // the front-end has to answer
	}
	// Each may wait for as long as the front-end does not answer, with the file open.
	if fs.fds.keepMany(mappingFDs) != 0 {
		return unix.EAGAIN // the guest tries again, see mappingErrno
	}
	defer fs.fds.unkeep(mappingFDs)
	if f != nil {
		m.Writable = f.flags&unix.O_ACCMODE == unix.O_RDWR
		return fs.mapFile(r, f.fd, m)
	}
	return fs.mapNode(r, n, m)
}

// openFileToMap finds the open file, if it has the access that the mapping needs. What can
// be written through a mapping can be read through it.
func (fs *FS) openFileToMap(r *server.Request, fh uint64, write bool) (*openFile, unix.Errno) {
	f, errno := fs.onlyFile(fs.openFiles.of(r.Header.NodeID, fh)) // of the node that has entered
	if errno == 0 {
		errno = fs.openFiles.usable(r, f)
	}
	if errno != 0 {
		return nil, errno
	}
	access := f.flags & unix.O_ACCMODE
	if access == unix.O_WRONLY || write && access != unix.O_RDWR {
		fs.openFiles.release(f)
		return nil, unix.EACCES
	}
	return f, 0
}

// mapNode opens the file and maps it.
func (fs *FS) mapNode(r *server.Request, n *inode, m dax.Mapping) unix.Errno {
	ts := threadOf(r)
	path, errno := fs.find.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	if errno := statxFD(path, &ts.st); errno != 0 {
		return errno
	}
	write := m.Writable
	// A program that is open for writing can't be executed on the host.
	spare := fs.cfg.DAX.Table.Traits().ReadOnly && ts.st.Mode&executable != 0
	m.Writable = write || !fs.cfg.ReadOnly && !spare && fs.allow(n, intentWrite) == 0
	fd, errno := -1, unix.EROFS
	if m.Writable && !fs.cfg.ReadOnly {
		fd, errno = fs.openToMap(ts, n, path, unix.O_RDWR)
	}
	switch errno {
	case unix.EACCES, unix.EPERM, unix.EROFS, unix.ETXTBSY:
		if !write {
			m.Writable = false
			fd, errno = fs.openToMap(ts, n, path, unix.O_RDONLY)
		}
	}
	if errno != 0 {
		return errno
	}
	defer fs.fds.close(fd)
	return fs.mapFile(r, fd, m)
}

// openToMap opens the file behind the O_PATH descriptor of a node, as OPEN does.
func (fs *FS) openToMap(ts *threadState, n *inode, path int, flags uint32) (int, unix.Errno) {
	fd, errno := fs.opener.openAgain(ts, path, int(flags), flags)
	if errno == unix.EACCES && fs.cfg.Landlocked {
		if named, e := fs.opener.openNamed(ts, n, int(flags), flags); e == 0 {
			return named, 0
		}
	}
	return fd, errno
}

// mapFile maps an open file, whose access mode is that of the mapping.
func (fs *FS) mapFile(r *server.Request, fd int, m dax.Mapping) unix.Errno {
	d := fs.cfg.DAX
	st := &threadOf(r).st
	if errno := statxFD(fd, st); errno != 0 {
		return errno
	}
	// Nothing is there to be seen: the file was cut off behind the guest's back. To
	// touch such a mapping would end the whole VMM.
	if m.FileOffset >= st.Size {
		return unix.EIO
	}
	switch end := m.FileOffset + m.Length; {
	case d.Stretch != nil:
		if fs.fds.count() != 0 {
			return unix.EAGAIN
		}
		defer fs.fds.uncount()
		long, err := d.Stretch.Stretch(fd)
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ETXTBSY):
			return unix.EACCES // no such mapping of this file: it may only grow, for one
		case err != nil:
			return unix.EIO
		}
		defer unix.Close(long)
		fd = long
	case end > st.Size && !d.Table.Traits().PastEnd:
		// The front-end would refuse, or, if the file is empty by then, extend it.
		return unix.EIO
	}
	return mappingErrno(d.Table.Map(fd, m, r.Canceled))
}

// RemoveMapping implements server.Mappings.
func (fs *FS) RemoveMapping(r *server.Request, list []fp.RemoveMappingOne) unix.Errno {
	if fs.cfg.DAX == nil {
		return unix.ENOSYS
	}
	if !r.MayWait {
		return server.WouldBlock // the front-end has to answer
	}
	ranges := make([]dax.Range, len(list))
	for i, one := range list {
		ranges[i] = dax.Range{Offset: one.Moffset, Length: one.Len}
	}
	return mappingErrno(fs.cfg.DAX.Table.Unmap(ranges, r.Canceled))
}

// Unmount implements server.Session: what the guest has mapped is unmapped before the
// guest is told that the session has ended, and may reset the device. Some front-ends fail
// when a device with mapped files is reset, see frontendReady in package virtiofs.
func (fs *FS) Unmount(r *server.Request) unix.Errno {
	d := fs.cfg.DAX
	switch {
	case d == nil || len(d.Table.Mappings()) == 0:
		return 0
	case !r.MayWait:
		return server.WouldBlock
	}
	_ = d.Table.Unmap([]dax.Range{{Offset: 0, Length: d.Table.Size()}}, r.Canceled)
	return 0
}

// mappingErrno is what the guest gets to know. A page fault that ends with EAGAIN is
// tried again by Linux (fs/fuse/dax.c: __fuse_dax_fault), while another error is a
// SIGBUS: so a VMM that pauses the guest does no harm.
func mappingErrno(err error) unix.Errno {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, dax.ErrRange):
		return unix.EINVAL
	case errors.Is(err, dax.ErrTaken):
		return unix.EBUSY
	case errors.Is(err, dax.ErrCanceled):
		return unix.EAGAIN
	case errors.Is(err, unix.ENOMEM):
		return unix.ENOMEM
	}
	return unix.EIO
}
