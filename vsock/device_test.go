package vsock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/fuse"
)

const testCID = 7

// guest is a driver's view of the device, without rings: what it sends and takes.
type guest struct {
	t *testing.T
	d *Device
}

func newGuest(t *testing.T) (*guest, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v")
	d, err := New(Options{CID: testCID, Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d.toGuest = &worker{own: -1}
	t.Cleanup(d.Disconnected)
	return &guest{t, d}, path
}

// send sends a packet from a port of the guest to one of the host.
func (g *guest) send(op op, from, to uint32, change func(*header), data ...byte) error {
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: from, dstPort: to, length: uint32(len(data)), kind: typeStream, op: op,
		bufAlloc: 64 << 10}
	if change != nil {
		change(&h)
	}
	var raw [headerSize]byte
	h.write(&raw)
	return g.d.packet(fuse.Over(raw[:], data))
}

func (g *guest) must(op op, from, to uint32, change func(*header), data ...byte) {
	g.t.Helper()
	if err := g.send(op, from, to, change, data...); err != nil {
		g.t.Fatal(err)
	}
}

// take returns the next packet to the guest, in a buffer of 4 KiB as Linux has them.
func (g *guest) take() (h header, data []byte) {
	g.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !g.d.hasPacket(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatal("no packet for the guest")
		}
	}
	a, b := make([]byte, 100), make([]byte, 3996)
	n := g.d.next(fuse.Over(a, b))
	all := append(a, b...)[:n]
	var raw [headerSize]byte
	copy(raw[:], all)
	h.read(&raw)
	if int(h.length) != len(all)-headerSize {
		g.t.Fatalf("packet of %d bytes with a header that says %d", len(all), h.length)
	}
	if h.op != opReset && (h.srcCID != hostCID || h.dstCID != testCID || h.kind != typeStream) {
		g.t.Fatalf("packet from %d to %d of kind %d", h.srcCID, h.dstCID, h.kind)
	}
	return h, all[headerSize:]
}

func (g *guest) want(op op) header {
	g.t.Helper()
	h, _ := g.take()
	if h.op != op {
		g.t.Fatalf("packet %+v, want op %d", h, op)
	}
	return h
}

func listen(t *testing.T, path string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// TestGuestConnects: data of a guest's connection reaches PATH_PORT and comes back, and neither side is sent
// more than it has room for.
func TestGuestConnects(t *testing.T) {
	g, path := newGuest(t)
	listen(t, path+"_52", func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() })
	g.must(opRequest, 1000, 52, nil)
	if h := g.want(opResponse); h.srcPort != 52 || h.dstPort != 1000 || h.bufAlloc != bufferSize {
		t.Errorf("response %+v", h)
	}
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	const room = 10000
	var back []byte
	var sent, passed, fwd uint32 // what was sent, what the device has passed on, what we have taken
	credits := func(h *header) { h.bufAlloc, h.fwdCnt = room, fwd }
	for len(back) < len(text) {
		for int(sent) < len(text) && sent-passed < bufferSize {
			n := min(bufferSize-(sent-passed), 4096, uint32(len(text))-sent)
			g.must(opData, 1000, 52, credits, text[sent:sent+n]...)
			sent += n
		}
		h, data := g.take()
		passed = h.fwdCnt
		back = append(back, data...)
		if uint32(len(back))-fwd > room {
			t.Fatalf("%d bytes came, there was room for %d", uint32(len(back))-fwd, room)
		}
		if uint32(len(back))-fwd > room/2 || h.op == opData {
			fwd = uint32(len(back))
			g.must(opCreditUpdate, 1000, 52, credits)
		}
	}
	if !bytes.Equal(back, text) {
		t.Error("the data has changed")
	}
	g.must(opShutdown, 1000, 52, func(h *header) { h.flags = noSend | noReceive })
	for {
		if h, _ := g.take(); h.op == opReset {
			break
		}
	}
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if len(g.d.conns) != 0 {
		t.Errorf("%d connections are left", len(g.d.conns))
	}
}

// listenHybrid takes connections of the host's programs at path, until the returned function is called.
func (g *guest) listenHybrid(path string) (stop func()) {
	g.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(g.t.Context())
	ended := make(chan struct{})
	go func() { _ = g.d.Listen(ctx, l); close(ended) }()
	return func() { cancel(); <-ended }
}

// TestHostConnects: the words between a host's program and the device are those of Firecracker.
func TestHostConnects(t *testing.T) {
	g, path := newGuest(t)
	defer g.listenHybrid(path)()
	dial := func(command string) net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, command); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i, command := range []string{"CONNECT 77\n", "connect 77\n", "Connect  77 \n"} {
		c := dial(command + "hello")
		h := g.want(opRequest)
		if h.dstPort != 77 || h.srcPort != firstPort+uint32(i) {
			t.Errorf("request %+v", h)
		}
		g.must(opResponse, 77, h.srcPort, nil)
		_, data := g.take()
		if string(data) != "hello" {
			t.Errorf("the guest gets %q", data)
		}
		g.must(opData, 77, h.srcPort, nil, []byte("welcome")...)
		ok := fmt.Sprintf("OK %d\n", h.srcPort)
		b := make([]byte, len(ok)+7)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != ok+"welcome" {
			t.Errorf("%q, %v", b, err)
		}
		g.must(opReset, 77, h.srcPort, nil)
		if n, err := c.Read(b); err == nil {
			t.Errorf("after a reset: %q", b[:n])
		}
	}
	for _, command := range []string{"\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT -1\n", "HELLO 5\n", strings.Repeat("x", 33)} {
		if b, err := io.ReadAll(dial(command)); err == nil && len(b) > 0 {
			t.Errorf("%q is answered with %q", command, b)
		}
	}
	// Nobody listens in the guest.
	c := dial("CONNECT 78\n")
	h := g.want(opRequest)
	g.must(opReset, 78, h.srcPort, nil)
	if b, err := io.ReadAll(c); err == nil && len(b) > 0 {
		t.Errorf("%q", b)
	}
	// And nobody answers.
	c = dial("CONNECT 79\n")
	g.want(opRequest)
	if b, err := io.ReadAll(c); err == nil && len(b) > 0 {
		t.Errorf("%q", b)
	}
	g.want(opReset)
}

// TestHostEnds: what the host's program has sent before it closed reaches the guest, also if the guest still
// sends.
func TestHostEnds(t *testing.T) {
	g, path := newGuest(t)
	text := bytes.Repeat([]byte("words "), 20000)
	listen(t, path+"_9", func(c net.Conn) { _, _ = c.Write(text); _ = c.Close() })
	g.must(opRequest, 5, 9, func(h *header) { h.bufAlloc = 1 << 20 })
	g.want(opResponse)
	var got []byte
	for {
		h, data := g.take()
		got = append(got, data...)
		if h.op == opShutdown && h.flags&noSend != 0 {
			break
		}
		_ = g.send(opData, 5, 9, func(h *header) { h.bufAlloc = 1 << 20 }, 'x')
	}
	if !bytes.Equal(got, text) {
		t.Errorf("%d bytes came, want %d", len(got), len(text))
	}
	for h, _ := g.take(); h.op != opReset; h, _ = g.take() { // at the latest after lingerTime
	}
}

// TestHalfClosed: a side that sends nothing more still gets what the other one sends.
func TestHalfClosed(t *testing.T) {
	g, path := newGuest(t)
	listen(t, path+"_9", func(c net.Conn) {
		b, _ := io.ReadAll(c) // to the guest's end
		_, _ = c.Write(b)
		_ = c.Close()
	})
	g.must(opRequest, 5, 9, nil)
	g.want(opResponse)
	g.must(opData, 5, 9, nil, []byte("question")...)
	g.must(opShutdown, 5, 9, func(h *header) { h.flags = noSend })
	if _, data := g.take(); string(data) != "question" {
		t.Errorf("%q", data)
	}
	if h := g.want(opShutdown); h.flags != noSend|noReceive {
		t.Errorf("flags %d", h.flags)
	}
	g.must(opReset, 5, 9, nil)
}

// TestBadPackets: a packet against the protocol costs its connection, or nothing.
func TestBadPackets(t *testing.T) {
	for _, c := range []struct {
		name   string
		op     op
		change func(*header)
		data   int
		drops  bool // the packet is none
		resets bool
	}{
		{name: "another guest's", op: opData, change: func(h *header) { h.srcCID = 8 }, drops: true},
		{name: "to another machine", op: opData, change: func(h *header) { h.dstCID = 3 }, drops: true},
		{name: "longer than it is", op: opData, change: func(h *header) { h.length = 5 }, drops: true},
		{name: "longer than a packet", op: opData, data: maxPacket + 1, drops: true},
		{name: "more than there is room for", op: opData, change: func(h *header) {}, data: maxPacket, resets: false},
		{name: "a second request", op: opRequest, resets: true},
		{name: "a response to nothing", op: opResponse, resets: true},
		{name: "unknown", op: 99, resets: true},
		{name: "0", op: 0, resets: true},
		{name: "of no connection", op: opData, change: func(h *header) { h.srcPort = 6 }, resets: true},
		{name: "seqpacket", op: opRequest, change: func(h *header) { h.kind = 2 }, resets: true},
		{name: "room of nonsense", op: opCreditUpdate, change: func(h *header) { h.bufAlloc, h.fwdCnt = 1<<32-1, 1<<31 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, path := newGuest(t)
			listen(t, path+"_9", func(c net.Conn) {})
			g.must(opRequest, 5, 9, nil)
			g.want(opResponse)
			err := g.send(c.op, 5, 9, c.change, make([]byte, c.data)...)
			if (err != nil) != c.drops {
				t.Fatalf("error %v", err)
			}
			if c.resets {
				g.want(opReset)
			}
		})
	}
	g, path := newGuest(t)
	listen(t, path+"_9", func(c net.Conn) {}) // reads nothing
	g.must(opRequest, 5, 9, nil)
	g.want(opResponse)
	for range 1000 { // the socket takes some, and then there is no more credit
		g.must(opData, 5, 9, nil, make([]byte, 32<<10)...)
		g.d.mu.Lock()
		c := g.d.conns[key{9, 5}]
		n := 0
		if c != nil {
			n = len(c.out)
		}
		g.d.mu.Unlock()
		if n > bufferSize {
			t.Fatalf("%d bytes are kept", n)
		}
		if c == nil {
			break
		}
	}
	for h, _ := g.take(); h.op != opReset; h, _ = g.take() {
	}
	for _, n := range []int{0, 1, headerSize - 1} {
		if err := g.d.packet(fuse.Over(make([]byte, n))); err == nil {
			t.Errorf("a packet of %d bytes", n)
		}
	}
}

// TestHostileGuest: a guest that makes connections and takes no answers keeps the device busy with no more
// than it may have.
func TestHostileGuest(t *testing.T) {
	g, path := newGuest(t)
	listen(t, path+"_9", func(c net.Conn) {})
	for i := range uint32(5000) {
		g.must(opRequest, i, 9, nil)
		g.must(opData, i, 8, nil, 'x')
		if i%3 == 0 {
			g.must(opReset, i, 9, nil)
		}
		g.d.mu.Lock()
		conns, ready, orphans := len(g.d.conns), len(g.d.ready), len(g.d.orphans)
		g.d.mu.Unlock()
		if conns > maxConns || ready > maxConns || orphans > maxOrphans {
			t.Fatalf("%d connections, %d with something to say, %d resets", conns, ready, orphans)
		}
	}
	g.d.Disconnected()
	if g.d.hasPacket() {
		t.Error("something is left after the guest has gone")
	}
}

// TestGivenUpRequests: connections that the guest gives up at once count as long as the device is about to make them.
func TestGivenUpRequests(t *testing.T) {
	g, _ := newGuest(t) // nobody listens: there are no goroutines but those
	for i := range uint32(30_000) {
		g.must(opRequest, i, 9, nil)
		g.must(opReset, i, 9, nil)
		if n := runtime.NumGoroutine(); n > 6*maxConns {
			t.Fatalf("%d goroutines after %d requests", n, i+1)
		}
	}
}

func TestCredit(t *testing.T) {
	for _, c := range []struct{ room, sent, passed, want uint32 }{
		{100, 0, 0, 100}, {100, 40, 0, 60}, {100, 100, 0, 0}, {100, 100, 100, 100},
		{100, 5, 1<<32 - 5, 90}, // the counts wrap around
		{100, 0, 1, 0}, {100, 200, 0, 0}, {1<<32 - 1, 0, 1, 0}, {0, 0, 0, 0},
	} {
		if got := credit(c.room, c.sent, c.passed); got != c.want {
			t.Errorf("room %d, sent %d, passed %d: %d, want %d", c.room, c.sent, c.passed, got, c.want)
		}
	}
}

func FuzzPackets(f *testing.F) {
	var raw [headerSize]byte
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: 5, dstPort: 9, kind: typeStream, op: opRequest}
	h.write(&raw)
	request := bytes.Clone(raw[:])
	h.op, h.length = opData, 4
	h.write(&raw)
	f.Add(append(request, append(raw[:], "text"...)...))
	path := filepath.Join(f.TempDir(), "v")
	l, err := net.Listen("unix", path+"_9")
	if err != nil {
		f.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := New(Options{CID: testCID, Path: path, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		d.toGuest = &worker{own: -1}
		for len(b) >= headerSize {
			n := min(headerSize+int(b[24])%64, len(b))
			_ = d.packet(fuse.Over(b[:n/2], b[n/2:n]))
			b = b[n:]
			if d.hasPacket() {
				_ = d.next(fuse.Over(make([]byte, 100)))
			}
			d.mu.Lock()
			for _, c := range d.conns {
				if len(c.out) > bufferSize || len(c.in) > bufferSize {
					t.Errorf("%d and %d bytes are kept", len(c.out), len(c.in))
				}
			}
			d.mu.Unlock()
		}
		d.Disconnected()
	})
}
