package server

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxGroups is NGROUPS_MAX of Linux.
const maxGroups = 65536

// twoWords is the form of all headers in extensions: struct fuse_ext_header,
// fuse_secctx_header, fuse_secctx and, its first word only, fuse_supp_groups. They
// follow names and so need not be aligned.
func twoWords(b []byte) (first, second uint32, rest []byte, ok bool) {
	if len(b) < 8 {
		return 0, 0, nil, false
	}
	return binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:]), b[8:], true
}

// parseExtensions reads the extensions of a request (fs/fuse/dir.c: get_create_ext):
// records of a length and a type, each a multiple of 8 bytes, each type once. b is a
// copy of ours.
func (r *Request) parseExtensions(b []byte) unix.Errno {
	for len(b) > 0 {
		length, typ, _, ok := twoWords(b)
		if !ok || length < 8 || length%8 != 0 || uint64(length) > uint64(len(b)) {
			return unix.EINVAL
		}
		record := b[8:length]
		b = b[length:]
		errno := unix.EINVAL // from a newer protocol: nothing that was agreed on
		switch {
		case typ <= fp.MaxNrSecctx && len(r.Security) == 0:
			errno = r.parseSecurity(record, int(typ))
		case typ == fp.ExtGroups && len(r.Groups) == 0:
			errno = r.parseGroups(record)
		}
		if errno != 0 {
			return errno
		}
	}
	return 0
}

// parseGroups reads struct fuse_supp_groups.
func (r *Request) parseGroups(b []byte) unix.Errno {
	if len(b) < 4 {
		return unix.EINVAL
	}
	n, list := binary.NativeEndian.Uint32(b), b[4:]
	if n > maxGroups || uint64(n)*4 > uint64(len(list)) {
		return unix.EINVAL
	}
	for ; n > 0; n-- {
		r.Groups = append(r.Groups, binary.NativeEndian.Uint32(list))
		list = list[4:]
	}
	return padding(list)
}

// parseSecurity reads n times struct fuse_secctx, a name with NUL and a value
// (fs/fuse/dir.c: get_security_context).
func (r *Request) parseSecurity(b []byte, n int) unix.Errno {
	for range n {
		length, _, rest, ok := twoWords(b)
		if !ok {
			return unix.EINVAL
		}
		name, value, errno := fp.ParseString(rest, xattrNameMax, unix.EINVAL)
		if errno != 0 || uint64(length) > uint64(len(value)) {
			return unix.EINVAL
		}
		r.Security = append(r.Security, SecurityContext{Name: name, Value: value[:length:length]})
		used := fp.DirentAlign(8 + len(name) + int(length))
		b = b[min(used, len(b)):]
	}
	return padding(b)
}

// padding is what may be left of a record: up to the next multiple of 8.
func padding(b []byte) unix.Errno {
	if len(b) >= 8 {
		return unix.EINVAL
	}
	return 0
}
