package events

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// What a successor of this process, or another host, must know: which thread makes phantoms, and up
// to when all changes were told.

const memoryMagic = "gvf-events-1\n\x00\x00\x00"

const memorySize = len(memoryMagic) + 16

// memory is what to keep. fs.mu is held.
func (fs *FS) memory() []byte {
	pid := fs.helper.Load()
	if pid == 0 {
		pid = fs.suspect.Load()
	}
	at := fs.lostAt
	if fs.session != nil {
		at = fs.session.current
	}
	b := make([]byte, 0, memorySize)
	b = append(b, memoryMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(pid))
	nanos := int64(0)
	if !at.IsZero() {
		nanos = at.UnixNano()
	}
	return binary.LittleEndian.AppendUint64(b, uint64(nanos))
}

// remember notes it in the ledger.
func (fs *FS) remember() {
	if fs.area == nil {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	_ = fs.area.Store(fs.memory()) // without memory for 32 bytes little else works
}

// recall takes over what another process has kept; false if b is nothing of the kind.
func (fs *FS) recall(b []byte) bool {
	if len(b) != memorySize || !bytes.HasPrefix(b, []byte(memoryMagic)) {
		return false
	}
	b = b[len(memoryMagic):]
	fs.suspect.Store(uint32(binary.LittleEndian.Uint64(b)))
	if nanos := int64(binary.LittleEndian.Uint64(b[8:])); nanos > 0 {
		fs.mu.Lock()
		fs.lostAt = time.Unix(0, nanos)
		fs.mu.Unlock()
	}
	return true
}

// refuses reports whether a request that changes something comes from the thread of a helper that
// has not introduced itself here: it may be a phantom.
func (fs *FS) refuses(r *server.Request) bool {
	pid := fs.suspect.Load()
	return pid != 0 && r.Header.PID == pid
}

// errRefused is the answer to such a request.
const errRefused = unix.EIO
