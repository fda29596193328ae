package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// parseExtensions reads the extensions of a request (fs/fuse/dir.c: get_create_ext):
// records of a length and a type, each a multiple of 8 bytes. b is a copy of ours.
func (r *Request) parseExtensions(b []byte) unix.Errno {
	for len(b) > 0 {
		h, _, ok := fp.View[fp.ExtHeader](b)
		if !ok || h.Size < uint32(size[fp.ExtHeader]()) || uint64(h.Size) > uint64(len(b)) {
			return unix.EINVAL
		}
		record := b[size[fp.ExtHeader]():h.Size]
		errno := unix.Errno(0)
		switch {
		case h.Type <= fp.MaxNrSecctx:
			errno = r.parseSecurity(record, int(h.Type))
		case h.Type == fp.ExtGroups:
			errno = r.parseGroups(record)
		default: // from a newer protocol: nothing that we agreed to
			errno = unix.EINVAL
		}
		if errno != 0 {
			return errno
		}
		// The next record begins at a multiple of 8.
		b = b[min(fp.DirentAlign(int(h.Size)), len(b)):]
	}
	return 0
}

// maxGroups is NGROUPS_MAX of Linux.
const maxGroups = 65536

func (r *Request) parseGroups(b []byte) unix.Errno {
	h, rest, ok := fp.View[fp.SuppGroups](b)
	if !ok || h.NrGroups > maxGroups || uint64(h.NrGroups)*4 > uint64(len(rest)) || len(r.Groups) > 0 {
		return unix.EINVAL
	}
	for i := range int(h.NrGroups) {
		g := rest[4*i : 4*i+4]
		r.Groups = append(r.Groups, uint32(g[0])|uint32(g[1])<<8|uint32(g[2])<<16|uint32(g[3])<<24)
	}
	return 0
}

// parseSecurity reads n records of struct fuse_secctx: a header, a name with NUL and
// a value, padded to 8 bytes.
func (r *Request) parseSecurity(b []byte, n int) unix.Errno {
	for range n {
		h, rest, ok := fp.View[fp.Secctx](b)
		if !ok {
			return unix.EINVAL
		}
		name, value, errno := fp.ParseString(rest, xattrNameMax, unix.EINVAL)
		if errno != 0 || uint64(h.Size) > uint64(len(value)) {
			return unix.EINVAL
		}
		r.Security = append(r.Security, SecurityContext{Name: name, Value: value[:h.Size:h.Size]})
		used := fp.DirentAlign(size[fp.Secctx]() + len(name) + int(h.Size))
		b = b[min(used, len(b)):]
	}
	return 0
}
