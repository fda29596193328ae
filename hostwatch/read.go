package hostwatch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read waits for events and appends them to list. After Close it returns an error.
func (w *Watcher) Read(list []Event) ([]Event, error) {
	if w.inotify != nil {
		return w.readInotify(list)
	}
	for had := len(list); len(list) == had; {
		n, err := w.file.Read(w.buf)
		if err != nil {
			return list, fmt.Errorf("hostwatch: %w", err)
		}
		list = w.parse(w.buf[:n], list)
	}
	return list, nil
}

// Sizes of the kernel's structures (include/uapi/linux/fanotify.h).
const (
	metadataSize = int(unsafe.Sizeof(unix.FanotifyEventMetadata{}))
	infoSize     = 4  // struct fanotify_event_info_header
	fidSize      = 20 // the same with file system, and length and type of the handle
)

// parse appends the events in b, which come from the kernel.
func (w *Watcher) parse(b []byte, list []Event) []Event {
	for len(b) >= metadataSize {
		size := int(binary.NativeEndian.Uint32(b))
		if size < metadataSize || size > len(b) {
			break
		}
		mask := binary.NativeEndian.Uint64(b[8:])
		pid := int32(binary.NativeEndian.Uint32(b[20:]))
		head := int(binary.NativeEndian.Uint16(b[6:]))
		switch {
		case mask&unix.FAN_Q_OVERFLOW != 0:
			list = append(list, Event{Op: Overflow})
		case pid == w.own || head > size:
		default:
			list = w.event(mask, b[head:size], list)
		}
		b = b[size:]
	}
	return list
}

// event appends one event, whose information records are in b.
func (w *Watcher) event(mask uint64, b []byte, list []Event) []Event {
	e := Event{IsDir: mask&unix.FAN_ONDIR != 0}
	for len(b) >= infoSize {
		kind, size := b[0], int(binary.NativeEndian.Uint16(b[2:]))
		if size < infoSize || size > len(b) {
			break
		}
		dir, name, ok := w.place(b[:size])
		switch {
		case !ok:
		case kind == unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
			e.NewDir, e.NewName = dir, name
		case kind == unix.FAN_EVENT_INFO_TYPE_DFID_NAME, kind == unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME:
			e.Dir, e.Name = dir, name
		}
		b = b[size:]
	}
	for _, m := range [...]struct {
		bit uint64
		op  Op
	}{{unix.FAN_CREATE, Created}, {unix.FAN_DELETE, Removed}, {unix.FAN_RENAME, Moved}, {unix.FAN_MODIFY, Modified},
		{unix.FAN_CLOSE_WRITE, Written}, {unix.FAN_ATTRIB, Attributes}} {
		if mask&m.bit != 0 {
			e.Op |= m.op
		}
	}
	if e.Op != 0 && (e.Dir != 0 || e.NewDir != 0) {
		list = append(list, e)
	}
	return moves(mask, e, list)
}

// moves appends the halves of a rename, from a kernel that has them only.
func moves(mask uint64, e Event, list []Event) []Event {
	if mask&unix.FAN_MOVED_FROM != 0 && e.Dir != 0 {
		list = append(list, Event{Op: Removed, Dir: e.Dir, Name: e.Name, IsDir: e.IsDir})
	}
	if mask&unix.FAN_MOVED_TO != 0 && e.Dir != 0 {
		list = append(list, Event{Op: Moved, NewDir: e.Dir, NewName: e.Name, IsDir: e.IsDir})
	}
	return list
}

// place is the directory and the name of an information record; false if the directory is not watched.
func (w *Watcher) place(b []byte) (dir uint64, name string, ok bool) {
	if len(b) < fidSize {
		return 0, "", false
	}
	size := int(binary.NativeEndian.Uint32(b[12:]))
	if size < 0 || size > len(b)-fidSize {
		return 0, "", false
	}
	var key [8 + 4 + maxHandle]byte
	if size > maxHandle {
		return 0, "", false
	}
	n := copy(key[:], b[4:12])
	n += copy(key[n:], b[16:fidSize+size])
	w.mu.Lock()
	dir = w.byFH[string(key[:n])]
	w.mu.Unlock()
	rest := b[fidSize+size:]
	if end := bytes.IndexByte(rest, 0); end >= 0 {
		rest = rest[:end]
	}
	if string(rest) == "." {
		rest = nil
	}
	return dir, string(rest), dir != 0
}
