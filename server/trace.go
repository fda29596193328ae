package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A trace line per request and per reply:
//
//	rx 12: LOOKUP n1 15b u1000 g1000 p412   request 12, node 1, 15 bytes of arguments, ids
//	tx 12: 128b                             its reply with 128 bytes after the header
//	tx 13: ENOENT                           an error

func (t *Thread) traceRequest() {
	h := &t.request.Header
	t.server.log.Tracef("rx %d: %s n%d %db u%d g%d p%d", h.Unique, fp.Opcode(h.Opcode), h.NodeID,
		len(t.args), h.UID, h.GID, h.PID)
}

func (t *Thread) traceReply(n int, errno unix.Errno) {
	if errno != 0 {
		t.server.log.Tracef("tx %d: %s", t.request.Header.Unique, unix.ErrnoName(errno))
		return
	}
	t.server.log.Tracef("tx %d: %db", t.request.Header.Unique, n)
}
