// Package fuseproto holds the FUSE wire protocol, version 7.45: opcodes, flags
// and the fixed-layout bodies of include/uapi/linux/fuse.h. It has types and
// views only, no behaviour: servers and clients of any transport share it.
//
// A Go struct here has exactly the layout of the C struct that its comment
// names; layout_test.go proves it against the kernel header. View and Bytes
// convert between such a struct and wire bytes without copying. The protocol
// has the byte order of the host; this module supports little-endian hosts.
//
// Nothing in this package trusts a length: View refuses short input. The caller
// must first copy the bytes out of memory that the peer can write.
package fuseproto
