package vsock

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// notifier counts.
type notifier struct{ n atomic.Int32 }

func (n *notifier) Notify() { n.n.Add(1) }
func (*notifier) Unblock()  {}

// ringSize entries are few, so that the device has to wait for the driver.
const ringSize = 8

// ring is a queue of the device that a test drives.
type ring struct {
	*vqtest.Driver
	t         *testing.T
	kickFD    int
	call, err notifier
}

func newRing(t *testing.T, d *Device, index int) *ring {
	t.Helper()
	r := &ring{Driver: vqtest.New(t, ringSize), t: t}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	r.kickFD = fd
	q, err := virtqueue.New(&r.Space, r.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StartQueue(index, vhostuser.Vring{Queue: q, Kick: fd, Call: &r.call, Err: &r.err}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.StopQueue(index); err != nil {
			t.Error(err)
		}
		_ = unix.Close(fd)
	})
	return r
}

func (r *ring) kick() {
	one := [8]byte{1}
	_, _ = unix.Write(r.kickFD, one[:])
}

// at is where the data of an entry is in memory.
func (r *ring) at(entry int) int { return r.DataAt() + entry*4096 }

// reap waits for the next chain that the device gives back.
func (r *ring) reap() (entry int, b []byte) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		if id, n, ok := r.Reap(); ok {
			return int(id), r.Mem[r.at(int(id)):][:n]
		}
		if time.Now().After(deadline) {
			r.t.Fatal("the device gives nothing back")
		}
	}
}

// TestRings: a connection over the rings of a device, with fewer buffers than there is data, and after
// chains that make no sense.
func TestRings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	d, err := New(Options{CID: testCID, Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	listen(t, path+"_52", func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() })
	t.Cleanup(d.Disconnected)
	rx, tx := newRing(t, d, queueToGuest), newRing(t, d, queueFromGuest)
	if err := d.StartQueue(queueEvents, vhostuser.Vring{}); err != nil {
		t.Fatal(err)
	}
	send := func(entry int, b []byte) {
		copy(tx.Mem[tx.at(entry):], b)
		tx.Set(entry, vqtest.Desc{Addr: tx.Guest(tx.at(entry)), Len: uint32(len(b))})
		tx.Offer(uint16(entry))
		tx.kick()
		if got, _ := tx.reap(); got != entry {
			t.Fatalf("entry %d comes back, want %d", got, entry)
		}
	}
	var fwd uint32
	packet := func(o op, data []byte) []byte {
		h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1000, dstPort: 52, length: uint32(len(data)), kind: typeStream, op: o,
			bufAlloc: 1 << 16, fwdCnt: fwd}
		var raw [headerSize]byte
		h.write(&raw)
		return append(raw[:], data...)
	}
	offer := func(entry int) {
		rx.Set(entry, vqtest.Desc{Addr: rx.Guest(rx.at(entry)), Len: 1000, Flags: vqtest.Write})
		rx.Offer(uint16(entry))
		rx.kick()
	}
	send(0, []byte("short"))                      // no packet
	send(1, bytes.Repeat([]byte{0xff}, 2000))     // nonsense
	tx.Set(2, vqtest.Desc{Addr: 1 << 60, Len: 9}) // outside of memory
	tx.Offer(2)
	tx.kick()
	tx.reap()
	rx.Set(7, vqtest.Desc{Addr: rx.Guest(rx.at(7)), Len: headerSize, Flags: vqtest.Write}) // no room for data
	rx.Offer(7)
	send(3, packet(opRequest, nil))
	if id, b := rx.reap(); id != 7 || len(b) != 0 {
		t.Fatalf("a buffer that is too small: entry %d, %d bytes", id, len(b))
	}
	for i := range 4 {
		offer(i)
	}
	take := func() (h header, data []byte) {
		id, b := rx.reap()
		var raw [headerSize]byte
		copy(raw[:], b)
		h.read(&raw)
		data = bytes.Clone(b[headerSize:])
		fwd += uint32(len(data))
		offer(id)
		return h, data
	}
	if h, _ := take(); h.op != opResponse {
		t.Fatalf("%+v", h)
	}
	text := bytes.Repeat([]byte("0123456789"), 30000)
	var back []byte
	var sent, passed uint32
	for len(back) < len(text) {
		for int(sent) < len(text) && sent-passed < bufferSize-3000 {
			n := min(3000, len(text)-int(sent))
			send(4, packet(opData, text[sent:int(sent)+n]))
			sent += uint32(n)
		}
		h, data := take()
		passed = h.fwdCnt
		back = append(back, data...)
		send(5, packet(opCreditUpdate, nil))
	}
	if !bytes.Equal(back, text) {
		t.Error("the data has changed")
	}
	if tx.call.n.Load() == 0 || rx.call.n.Load() == 0 || rx.err.n.Load() != 0 {
		t.Errorf("calls %d and %d, errors %d", tx.call.n.Load(), rx.call.n.Load(), rx.err.n.Load())
	}
	// The guest's memory is taken away: it costs the queue, and the queue alone.
	if err := tx.Truncate(0); err != nil {
		t.Fatal(err)
	}
	tx.kick()
	for deadline := time.Now().Add(30 * time.Second); tx.err.n.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the driver is not told of the error")
		}
	}
	d.mu.Lock()
	c := d.conns[key{52, 1000}]
	d.mu.Unlock()
	if c == nil {
		t.Error("the connection has ended, too")
	}
}
