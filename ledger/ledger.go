package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/memfile"
)

// Ledger is a ledger that this process writes. Its methods may be called from any goroutine,
// as far as the parts that they return say nothing else.
type Ledger struct {
	fd     int
	memory []byte
	others bool // another process may be writing, and this one changes nothing
	header *header
}

// FileName is the name of a ledger's file, see memfd_create(2).
const FileName = "govirtiofs-ledger"

// newFile makes a file for a ledger.
func newFile() (fd int, err error) {
	if fd, err = memfile.Create(FileName, fileSize); err != nil {
		return -1, fmt.Errorf("ledger: %w", err)
	}
	return fd, nil
}

// Create makes an empty ledger. It owns its descriptor until Close.
func Create() (*Ledger, error) {
	fd, err := newFile()
	if err != nil {
		return nil, err
	}
	l, err := newLedger(fd, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if err := l.need(headerAt, pageSize); err != nil {
		_ = l.Close()
		return nil, err
	}
	h := l.header
	h.version, h.oldest, h.cell, h.size = Version, OldestVersion, fuse.CellSize, uint64(fileSize)
	h.node, h.open = uint32(nodeSize), uint32(openSize)
	copy(h.magic[:], magic)
	return l, nil
}

// Open takes over a ledger that another process has left. It owns fd when it succeeds. An error
// says that the file is none, or one that this program can't read.
func Open(fd int) (*Ledger, error) {
	if err := memfile.Check(fd, fileSize); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l, err := newLedger(fd, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	if err := l.header.check(); err != nil {
		_ = unix.Munmap(l.memory)
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

func (h *header) check() error {
	switch {
	case !bytes.Equal(h.magic[:], []byte(magic)):
		return errors.New("the file does not begin as a ledger does")
	case h.version < OldestVersion || h.oldest > Version:
		return fmt.Errorf("version %d, readable from version %d on: this program reads %d to %d", h.version, h.oldest, OldestVersion, Version)
	case h.cell != fuse.CellSize || h.node != uint32(nodeSize) || h.open != uint32(openSize) || h.size != uint64(fileSize):
		return errors.New("records of other sizes than those of its version")
	}
	return nil
}

func newLedger(fd, prot int) (*Ledger, error) {
	b, err := unix.Mmap(fd, 0, int(fileSize), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_AS, &limit) == nil && limit.Cur != unix.RLIM_INFINITY {
			return nil, fmt.Errorf("ledger: mmap of %d bytes: %w: the address space is limited to %d bytes (RLIMIT_AS, ulimit -v); "+
				"few of them take memory, so that the limit can be raised", int64(fileSize), err, limit.Cur)
		}
		return nil, fmt.Errorf("ledger: mmap of %d bytes: %w", int64(fileSize), err)
	}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	return &Ledger{fd: fd, memory: b, header: (*header)(unsafe.Pointer(unsafe.SliceData(b)))}, nil
}

// FD is the ledger's descriptor, for a successor. It stays the ledger's.
func (l *Ledger) FD() int { return l.fd }

// Close releases the ledger. Nothing in it may be used any more.
func (l *Ledger) Close() error {
	err := unix.Munmap(l.memory)
	if closing := unix.Close(l.fd); err == nil {
		err = closing
	}
	return err
}

// need makes the file system provide memory for the bytes from at on. Otherwise a write to
// them when memory is short would end the process. It is a system call.
func (l *Ledger) need(at, size int64) error {
	if err := memfile.Populate(l.memory, l.fd, at, size); err != nil {
		return fmt.Errorf("ledger: no memory: %w", err)
	}
	return nil
}

func (l *Ledger) at(offset int64) unsafe.Pointer {
	return unsafe.Pointer(&l.memory[offset])
}

// Begin says that this process writes the ledger from now on, and returns its generation, from 1 on.
func (l *Ledger) Begin() uint64 {
	atomic.StoreUint32(&l.header.serving, 0)
	return atomic.AddUint64(&l.header.generation, 1)
}

// Serving says that this process has taken over all that its predecessor left.
func (l *Ledger) Serving() {
	if l != nil {
		atomic.StoreUint32(&l.header.serving, 1)
	}
}

// IsServing reports whether the process of the last Begin has called Serving.
func (l *Ledger) IsServing() bool { return atomic.LoadUint32(&l.header.serving) != 0 }

// Owner is the word by which the kernel tells that a process which writes the ledger is about to be gone, see
// package keeper.
func (l *Ledger) Owner() *uint32 {
	if l == nil {
		return nil
	}
	return &l.header.owner
}

// End says that the process ends because it was told to, or because its client is gone. No
// successor is wanted.
func (l *Ledger) End() {
	if l != nil {
		atomic.StoreUint32(&l.header.ended, 1)
	}
}

// Ended reports whether End was called.
func (l *Ledger) Ended() bool { return atomic.LoadUint32(&l.header.ended) != 0 }
