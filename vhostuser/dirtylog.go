package vhostuser

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// minLogRoom is the address space set aside for the first log: enough for a guest
// of 512 GiB.
const minLogRoom = 16 << 20

// dirtyLog is the bitmap of SET_LOG_BASE. Each migration, and each growth of the
// guest during one, brings a new file for it, while running queues may still be
// about to mark a page in the one before. So a log is mapped over the one before,
// at the same address: a late mark ends up in the new log, where a page too much
// does no harm.
type dirtyLog struct {
	log  *virtqueue.Log
	room []byte   // where logs are mapped; anonymous memory where none is
	old  [][]byte // earlier rooms, which were too small
}

// setLogBase maps the bitmap. The front-end waits for an answer, which says nothing
// but that we are done with the log before (vhost-user, VHOST_USER_SET_LOG_BASE).
func (c *Conn) setLogBase(m *message) ([]byte, error) {
	d := body[LogDescription](m)
	fd := m.TakeFD(0)
	defer unix.Close(fd)
	if err := c.dirty.open(fd, d.Offset, d.Size); err != nil {
		return nil, err
	}
	n := c.keep(DescriptorLog, 0, fd)
	c.drop(DescriptorLog, c.recovery.log.number)
	c.recovery.log = noted{number: n, offset: d.Offset, size: d.Size}
	c.updateLogs()
	return replyU64(0), nil
}

// setLogFD accepts the message and closes its descriptor: the front-end does not
// wait for this eventfd.
func (c *Conn) setLogFD(*message) ([]byte, error) { return nil, nil }

// updateLogs tells the running queues where to log, if at all.
func (c *Conn) updateLogs() {
	log := c.dirty.log
	if c.features&FeatureLogAll == 0 {
		log = nil
	}
	for i := range c.rings {
		if r := &c.rings[i]; r.queue != nil {
			r.queue.SetLog(log, r.addr.Log, r.addr.Flags&VringAddrLog != 0)
		}
	}
}

// open makes size bytes of the file at offset the log; fd stays the caller's.
func (d *dirtyLog) open(fd int, offset, size uint64) error {
	page := uint64(unix.Getpagesize())
	if offset%page != 0 {
		return fmt.Errorf("offset %#x is not a multiple of the page size", offset)
	}
	// A mapping of the usual kind first: it makes all checks.
	trial, err := mapFile(fd, offset, size)
	if err != nil {
		return err
	}
	length := uint64(len(trial.all))
	trial.unmap()
	if err := d.makeRoom(length); err != nil {
		return err
	}
	if err := d.fill(0, length, fd, int64(offset), unix.MAP_SHARED); err != nil {
		return err
	}
	if err := d.fill(length, uint64(len(d.room)), -1, 0, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return err
	}
	d.log = virtqueue.NewLog(d.room[:size])
	return nil
}

// makeRoom provides room for a log of n bytes. Marks that queues still make in the
// old, too small room do no harm, because the front-end has left that log.
func (d *dirtyLog) makeRoom(n uint64) error {
	if n <= uint64(len(d.room)) {
		return nil
	}
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	room, err := unix.Mmap(-1, 0, int(max(n, 2*uint64(len(d.room)), minLogRoom)), prot, flags)
	if err != nil {
		return fmt.Errorf("mmap of %#x bytes: %w", n, err)
	}
	if d.room != nil {
		d.old = append(d.old, d.room)
	}
	d.room = room
	return nil
}

// fill maps a file, or nothing, over [from, to) of the room.
func (d *dirtyLog) fill(from, to uint64, fd int, offset int64, flags int) error {
	if from == to {
		return nil
	}
	at := unsafe.Pointer(&d.room[from])
	got, err := unix.MmapPtr(fd, offset, at, uintptr(to-from), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err == nil && got != at {
		err = errors.New("mapped elsewhere")
	}
	if err != nil {
		return fmt.Errorf("mmap of the log: %w", err)
	}
	return nil
}

// close unmaps everything; no queue runs any more.
func (d *dirtyLog) close() {
	for _, b := range append(d.old, d.room) {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
	*d = dirtyLog{}
}
