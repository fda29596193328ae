package passthrough

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Two kinds of extended attributes have ids in them: access control lists, and file capabilities
// that are valid only below one root user. Both are translated with the rest. The guest's name of
// an attribute decides: whatever its name on the host, the ids in its value are the host's there.

// hasIDs reports whether the attribute's value needs translation.
func (x *xattrs) hasIDs(name fp.Name) bool {
	return (x.who.users != nil || x.who.groups != nil) && (isACL(name) || isCapability(name))
}

func isACL(name fp.Name) bool        { return bytes.HasPrefix(name, aclPrefix) }
func isCapability(name fp.Name) bool { return string(name.Bytes()) == "security.capability" }

// Form of an ACL (include/uapi/linux/posix_acl_xattr.h): a version, then entries of a
// tag, permissions and an id.
const (
	aclHeader  = 4
	aclEntry   = 8
	aclVersion = 2
	aclUser    = 0x02 // ACL_USER
	aclGroup   = 0x08 // ACL_GROUP
)

// translateACL changes the ids in an ACL in place.
func translateACL(acl []byte, user, group func(uint32) (uint32, bool)) unix.Errno {
	if len(acl) < aclHeader || binary.LittleEndian.Uint32(acl) != aclVersion {
		return 0 // the kernel refuses it, and says what is wrong
	}
	for e := acl[aclHeader:]; len(e) >= aclEntry; e = e[aclEntry:] {
		translate := user
		switch binary.LittleEndian.Uint16(e) {
		case aclUser:
		case aclGroup:
			translate = group
		default:
			continue
		}
		id, ok := translate(binary.LittleEndian.Uint32(e[4:]))
		if !ok {
			return unix.EPERM
		}
		binary.LittleEndian.PutUint32(e[4:], id)
	}
	return 0
}

// Form of file capabilities (include/uapi/linux/capability.h): version and flags, two
// pairs of sets, and in version 3 the user who is root where they hold. Version 2
// holds for the real root.
const (
	capXattr2   = 20
	capXattr3   = 24
	capRevision = 0xff000000
	capV2       = 0x02000000
	capV3       = 0x03000000
)

// capRoot is the root that file capabilities hold for; false if the value is none that
// the kernel takes.
func capRoot(value []byte) (uint32, bool) {
	if len(value) < 4 {
		return 0, false
	}
	switch revision := binary.LittleEndian.Uint32(value) & capRevision; {
	case revision == capV2 && len(value) == capXattr2:
		return 0, true
	case revision == capV3 && len(value) == capXattr3:
		return binary.LittleEndian.Uint32(value[capXattr2:]), true
	}
	return 0, false
}

// namesIDs reports whether value is one of an attribute that names users or groups, in the
// form that the kernel takes. A client's kernel has checked the rest of it.
func namesIDs(name fp.Name, value []byte) bool {
	if isACL(name) {
		return len(value) > aclHeader && len(value)%aclEntry == aclHeader &&
			binary.LittleEndian.Uint32(value) == aclVersion
	}
	_, ok := capRoot(value)
	return ok && isCapability(name)
}

// appendCapability appends value, as one that holds for root, to b. For user 0 it is
// of version 2, which is all that old kernels know.
func appendCapability(b, value []byte, root uint32) []byte {
	start := len(b)
	b = append(b, value[:capXattr2]...)
	version := uint32(capV2)
	if root != 0 {
		version = capV3
		b = binary.LittleEndian.AppendUint32(b, root)
	}
	head := binary.LittleEndian.Uint32(value)
	binary.LittleEndian.PutUint32(b[start:], head&^capRevision|version)
	return b
}

// toHost is the value to store for one that the guest sets. It is valid until the
// thread's next request.
func (x *xattrs) toHost(ts *threadState, name fp.Name, value []byte) ([]byte, unix.Errno) {
	if isACL(name) {
		ts.value = append(ts.value[:0], value...)
		return ts.value, translateACL(ts.value, x.who.users.Host, x.who.groups.Host)
	}
	root, ok := capRoot(value)
	if !ok {
		return value, 0
	}
	if root, ok = x.who.users.Host(root); !ok {
		return nil, unix.EPERM
	}
	ts.value = appendCapability(ts.value[:0], value, root)
	return ts.value, 0
}

// getIDs reads an attribute with ids in it. The length may differ from the
// host's, so the whole value is read first.
func (x *xattrs) getIDs(ts *threadState, path *byte, guest, host fp.Name, dst []byte) (int, unix.Errno) {
	ts.value = slices.Grow(ts.value[:0], 4096)
	n, errno := sysGetxattr(path, host.CString(), ts.value[:cap(ts.value)])
	if errno == unix.ERANGE {
		ts.value = slices.Grow(ts.value[:0], xattrSizeMax)
		n, errno = sysGetxattr(path, host.CString(), ts.value[:cap(ts.value)])
	}
	if errno != 0 {
		return 0, errno
	}
	value := ts.value[:n]
	if isACL(guest) {
		keep := func(m *IDMap) func(uint32) (uint32, bool) {
			return func(id uint32) (uint32, bool) { return m.Guest(id), true }
		}
		_ = translateACL(value, keep(x.who.users), keep(x.who.groups))
	} else if root, ok := capRoot(value); ok {
		var b [capXattr3]byte
		value = append(value[:0], appendCapability(b[:0], value, x.who.users.Guest(root))...)
	}
	if len(dst) == 0 {
		return len(value), 0
	}
	if len(dst) < len(value) {
		return 0, unix.ERANGE
	}
	return copy(dst, value), 0
}

const xattrSizeMax = 65536 // XATTR_SIZE_MAX
