package frontend

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// DirtyLog is the bitmap in which the back-end marks the pages of the guest's memory that it writes, as
// a VMM has it while a guest moves (SET_LOG_BASE).
type DirtyLog struct {
	f     *Frontend
	words []uint32
	bytes []byte
}

// StartLog has the back-end log what it writes, the used rings too.
func (f *Frontend) StartLog() (*DirtyLog, error) {
	if !f.Protocol.Has(vu.ProtocolLogShmFD) || f.Features&vu.FeatureProtocolFeatures == 0 {
		return nil, fmt.Errorf("the back-end has no %s", vu.ProtocolLogShmFD)
	}
	size := align((GuestBase+len(f.mem))/pageSize/8+1, pageSize)
	fd, err := unix.MemfdCreate("dirty log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	l := &DirtyLog{f: f, bytes: b, words: unsafe.Slice((*uint32)(unsafe.Pointer(&b[0])), size/4)}
	d := vu.LogDescription{Size: uint64(size)}
	if _, err := f.Call(vu.ReqSetLogBase, vu.Bytes(&d), fd); err != nil {
		return nil, err
	}
	return l, l.set(true)
}

// set turns logging on or off.
func (l *DirtyLog) set(on bool) error {
	f := l.f
	features := f.Features
	if on {
		features |= vu.FeatureLogAll
	}
	f.logs.Store(on)
	u := vu.U64{Value: features}
	if err := f.Acked(vu.ReqSetFeatures, vu.Bytes(&u)); err != nil {
		return err
	}
	for _, q := range f.Queues {
		addr := q.addr()
		if err := f.Acked(vu.ReqSetVringAddr, vu.Bytes(&addr)); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends logging. The log may be used until Close.
func (l *DirtyLog) Stop() error { return l.set(false) }

// Close releases the log.
func (l *DirtyLog) Close() { _ = unix.Munmap(l.bytes) }

// Collect calls visit with the offset in the guest's memory of each page that was marked since the last
// call, and its bytes.
func (l *DirtyLog) Collect(visit func(offset int, page []byte)) {
	for i := GuestBase / pageSize / 32; i < len(l.words); i++ {
		for word := atomic.SwapUint32(&l.words[i], 0); word != 0; word &= word - 1 {
			at := (32*i+bits.TrailingZeros32(word))*pageSize - GuestBase
			if at >= 0 && at+pageSize <= len(l.f.mem) {
				visit(at, l.f.mem[at:at+pageSize])
			}
		}
	}
}

// Range is a part of the guest's memory.
type Range struct{ At, Len int }

// DeviceMemory is what only the device writes, if no client sends data: room for data, and the used rings
// without what only says when to kick.
func (f *Frontend) DeviceMemory() (list []Range) {
	for _, q := range f.Queues {
		list = append(list, Range{q.usedAt + 2, 2 + 8*int(q.size)})
		for _, s := range q.Slots {
			list = append(list, Range{s.dataAt, len(s.Data)})
		}
	}
	return list
}
