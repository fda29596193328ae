package server

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A trace line per request and per reply:
//
//	rx 12: LOOKUP n1 "zurl" 5b u1000 g1000 p412   request 12, node 1, a name, 5 bytes of
//	                                              arguments, user, group, process
//	rx 14: WRITE n9 40b+4096b u0 g0 p412          40 bytes of arguments, 4096 of data
//	tx 12: 128b                                   its reply with 128 bytes after the header
//	tx 13: ENOENT                                 an error
//
// Names are quoted and escaped: they are the client's, and the log is ours.

// LevelTrace is the level of the lines about each request and reply, below slog.LevelDebug. If the
// log's level changes while requests are served, the lines begin or end within half a second.
const LevelTrace slog.Level = -8

// tracing is asked once a request.
func (s *Server) tracing() bool { return s.traced.Load() }

// lookAtLevel sees whether there are lines about requests: the level may change while the server runs.
func (s *Server) lookAtLevel() { s.traced.Store(s.log.Enabled(context.Background(), LevelTrace)) }

func (t *thread) trace(line string) { t.server.log.Log(context.Background(), LevelTrace, line) }

func (t *thread) traceRequest(o *op) {
	h := &t.request.Header
	b := make([]byte, 0, 128)
	b = append(b, "rx "...)
	b = strconv.AppendUint(b, h.Unique, 10)
	b = append(b, ": "...)
	b = append(b, fp.Opcode(h.Opcode).String()...)
	b = appendNumber(b, " n", h.NodeID)
	b = t.appendNames(b, o)
	b = appendNumber(b, " ", uint64(len(t.args)))
	b = append(b, 'b')
	if t.dataLen != 0 {
		b = appendNumber(b, "+", t.dataLen)
		b = append(b, 'b')
	}
	b = appendNumber(b, " u", uint64(h.UID))
	b = appendNumber(b, " g", uint64(h.GID))
	b = appendNumber(b, " p", uint64(h.PID))
	t.trace(string(b))
}

func appendNumber(b []byte, before string, n uint64) []byte {
	return strconv.AppendUint(append(b, before...), n, 10)
}

// appendNames appends the names that follow the body, as far as they are there.
func (t *thread) appendNames(b []byte, o *op) []byte {
	rest := t.args[min(o.Body, len(t.args)):]
	for range o.Names {
		name, after, errno := fp.ParseString(rest, unix.PathMax, unix.ENAMETOOLONG)
		if errno != 0 {
			break
		}
		b = append(b, ' ')
		b = strconv.AppendQuoteToASCII(b, string(name.Bytes()))
		rest = after
	}
	return b
}

func (t *thread) traceReply(n int, errno unix.Errno) {
	if errno != 0 {
		t.trace(fmt.Sprintf("tx %d: %s", t.request.Header.Unique, errnoName(errno)))
		return
	}
	t.trace(fmt.Sprintf("tx %d: %db", t.request.Header.Unique, n))
}

func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(errno))
}
