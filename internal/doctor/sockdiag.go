package doctor

import (
	"encoding/binary"
	"errors"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixSocket is a unix socket as the kernel lists it (linux/unix_diag.h).
type unixSocket struct {
	Inode     uint32 // of the socket; what /proc/PID/fd shows
	Listening bool
	FileInode uint32 // of the socket's file, 0 without one
	FileDev   uint32 // in the kernel's own form, see kernelDev
	Peer      uint32 // inode of the socket at the other end, 0 without one
}

// Numbers of linux/unix_diag.h that are not in x/sys.
const (
	showVFS    = 0x2 // UDIAG_SHOW_VFS
	showPeer   = 0x4 // UDIAG_SHOW_PEER
	attrVFS    = 1   // UNIX_DIAG_VFS
	attrPeer   = 2   // UNIX_DIAG_PEER
	diagFamily = 20  // SOCK_DIAG_BY_FAMILY
	tcpListen  = 10  // the state of sockets that listen, of whichever family
)

// unixDiagReq is struct unix_diag_req, after a message's header.
type unixDiagReq struct {
	unix.NlMsghdr
	Family, Protocol uint8
	_                uint16
	States, Ino      uint32
	Show             uint32
	Cookie           [2]uint32
}

// unixSockets lists the unix sockets of the process's network namespace. Unlike
// /proc/net/unix it gives the inode of a socket's file. So it also finds a file
// that was renamed, or bound by a relative path.
func unixSockets() ([]unixSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, err
	}
	req := unixDiagReq{Family: unix.AF_UNIX, States: ^uint32(0), Show: showVFS | showPeer}
	req.Len, req.Type = uint32(unsafe.Sizeof(req)), diagFamily
	req.Flags, req.Seq = unix.NLM_F_REQUEST|unix.NLM_F_DUMP, 1
	b := unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out []unixSocket
	for buf := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		list, more, err := parseSockets(buf[:n])
		out = append(out, list...)
		if err != nil || !more {
			return out, err
		}
	}
}

var errNetlink = errors.New("netlink: invalid answer")

// parseSockets reads a datagram of answers. more reports whether others follow.
func parseSockets(b []byte) (out []unixSocket, more bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return out, false, errNetlink
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch kind {
		case unix.NLMSG_DONE:
			return out, false, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return out, false, errNetlink
			}
			return out, false, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case diagFamily:
			s, ok := parseSocket(body)
			if !ok {
				return out, false, errNetlink
			}
			out = append(out, s)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return out, true, nil
}

// parseSocket reads struct unix_diag_msg and its attributes.
func parseSocket(b []byte) (s unixSocket, ok bool) {
	const fixed = 16
	if len(b) < fixed {
		return s, false
	}
	s.Listening = b[2] == tcpListen
	s.Inode = binary.NativeEndian.Uint32(b[4:])
	for b = b[fixed:]; len(b) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			return s, false
		}
		switch v := b[4:size]; {
		case kind == attrVFS && len(v) >= 8:
			s.FileInode, s.FileDev = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
		case kind == attrPeer && len(v) >= 4:
			s.Peer = binary.NativeEndian.Uint32(v)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s, true
}

// kernelDev is a device number of stat in the form that the kernel uses inside
// (linux/kdev_t.h: MKDEV).
func kernelDev(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// listener returns the listening socket whose file has this identity.
func listener(all []unixSocket, st *unix.Stat_t) *unixSocket {
	i := slices.IndexFunc(all, func(s unixSocket) bool {
		return s.Listening && s.FileInode == uint32(st.Ino) && s.FileDev == kernelDev(st.Dev)
	})
	if i < 0 {
		return nil
	}
	return &all[i]
}

// connections returns both ends of the connections to a socket file. The accepted
// ends have the listener's file, even after the listener is closed.
func connections(all []unixSocket, st *unix.Stat_t) (back, front []uint32) {
	for _, s := range all {
		if !s.Listening && s.Peer != 0 && s.FileInode == uint32(st.Ino) && s.FileDev == kernelDev(st.Dev) {
			back, front = append(back, s.Inode), append(front, s.Peer)
		}
	}
	return back, front
}
