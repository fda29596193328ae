package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// guest is a connection that a test speaks over by hand.
type guest struct {
	t *testing.T
	net.Conn
}

func dialGuest(t *testing.T, path string) *guest {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	return &guest{t, c}
}

// greet says hello and returns the answer.
func (g *guest) greet(h hello, share, token string) (welcome, error) {
	g.t.Helper()
	if h.Channels == 0 {
		h.Channels = 2
	}
	_ = writeHello(g, h, share, []byte(token)) // who is refused at once may not be heard
	return readWelcome(g)
}

// message is a request of n bytes, or what else is given to it.
func message(op fp.Opcode, unique uint64, body []byte) []byte {
	h := fp.InHeader{Len: uint32(inHeaderSize + len(body)), Opcode: uint32(op), Unique: unique}
	return append(bytes.Clone(fp.Bytes(&h)), body...)
}

// receive returns the next message that is no ack.
func (g *guest) receive() ([]byte, error) {
	for {
		b := make([]byte, 4)
		if _, err := io.ReadFull(g, b); err != nil {
			return nil, err
		}
		b = append(b, make([]byte, binary.LittleEndian.Uint32(b)-4)...)
		if _, err := io.ReadFull(g, b[4:]); err != nil {
			return nil, err
		}
		if _, ok := isAck(b); !ok {
			return b, nil
		}
	}
}

func newRecorder() *recorder { return &recorder{times: make(map[uint64]int)} }

// TestHello: who is refused hears why, and the log says it.
func TestHello(t *testing.T) {
	for _, c := range []struct {
		name         string
		h            hello
		share, token string
		admit        error
		want         error
		says         string
	}{
		{name: "right", share: "share", token: "secret"},
		{name: "the only share", token: "secret"},
		{name: "no token", share: "share", want: ErrRefused, says: "token is needed"},
		{name: "wrong token", share: "share", token: "secre", want: ErrRefused, says: "token is wrong"},
		{name: "longer token", share: "share", token: "secrets", want: ErrRefused, says: "token is wrong"},
		{name: "other share", share: "data", token: "secret", want: ErrRefused, says: `no share "data"`},
		{name: "wrong address", share: "share", token: "secret", admit: errors.New("port 2000 is not privileged"), want: ErrRefused, says: "not privileged"},
		{name: "one channel", h: hello{Channels: 1}, share: "share", token: "secret", want: ErrRefused, says: "channel 0 of 1"},
		{name: "many channels", h: hello{Channels: 6}, share: "share", token: "secret", want: ErrRefused, says: "channel 0 of 6"},
		{name: "channel beyond", h: hello{Channels: 2, Channel: 2}, share: "share", token: "secret", want: ErrRefused, says: "channel 2 of 2"},
		{name: "session unknown", h: hello{Mode: modeResume}, share: "share", token: "secret", want: ErrStale, says: "no such session"},
		{name: "messages that never were", h: hello{At: position{Received: 1}}, share: "share", token: "secret", want: ErrStale, says: "has gone on without"},
		{name: "messages that are lost", h: hello{At: position{First: 1, Sent: 1}}, share: "share", token: "secret", want: ErrStale, says: "has gone on without"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log daemontest.Log
			_, path := startServer(t, newRecorder(), Options{Share: "share", Token: []byte("secret"),
				Log: slog.New(slog.NewTextHandler(&log, nil)), Admit: func(net.Addr) (string, error) { return "cid 3", c.admit }})
			_, err := dialGuest(t, path).greet(c.h, c.share, c.token)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err == nil {
				return
			}
			if !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), c.says) {
				t.Errorf("the guest hears %q, want %q", err, c.says)
			}
			if !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), c.says) || !strings.Contains(log.String(), "refused") {
				t.Errorf("the log has %q, want %q", &log, c.says)
			}
		})
	}
}

// TestMalformedHello: what is no hello is refused, and costs nothing but its connection.
func TestMalformedHello(t *testing.T) {
	var right bytes.Buffer
	if err := writeHello(&right, hello{Channels: 2}, "share", nil); err != nil {
		t.Fatal(err)
	}
	with := func(at int, b ...byte) []byte {
		m := bytes.Clone(right.Bytes())
		copy(m[at:], b)
		return m
	}
	h := newRecorder()
	_, path := startServer(t, h, Options{})
	for name, b := range map[string][]byte{
		"too long":      with(0, 0xff, 0xff, 0xff, 0x7f),
		"too short":     with(0, 8),
		"other program": []byte(strings.Repeat("GET / HTTP/1.1\r\n", 20)),
		"version":       with(16, 9),
		"share's name":  with(right.Len()-len("share")-8, 0xff, 0xff, 0xff, 0xff),
		"token":         with(right.Len()-len("share")-4, 1),
	} {
		g := dialGuest(t, path)
		if _, err := g.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := readWelcome(g); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := dialGuest(t, path).greet(hello{}, "", ""); err != nil {
		t.Error(err)
	}
}

// TestSilent: connections that say nothing keep nobody out, and only a few of them are kept.
func TestSilent(t *testing.T) {
	_, path := startServer(t, newRecorder(), Options{})
	var silent []*guest
	for range 5 * maxHellos {
		silent = append(silent, dialGuest(t, path))
	}
	if _, err := dialGuest(t, path).greet(hello{}, "", ""); err != nil {
		t.Error(err)
	}
	for i, g := range silent[:4*maxHellos] {
		if _, err := io.Copy(io.Discard, g); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d of %d without a hello is kept", i, len(silent))
		}
	}
}

// TestHostile: a guest that breaks the rules loses its connection and no more: what it
// keeps the server busy with is bounded, and it can go on.
func TestHostile(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testHostile(t, func() *Recovery { return nil }) })
	t.Run("recovery", func(t *testing.T) {
		testHostile(t, func() *Recovery {
			r := newRemains(t)
			return &Recovery{Ledger: r.ledger, Memory: r.memory}
		})
	})
}

func testHostile(t *testing.T, recovery func() *Recovery) {
	read := func(n uint32) []byte { return fp.Bytes(&fp.ReadIn{Size: n}) }
	var flood []byte
	for i := range uint64(2000) {
		flood = append(flood, message(fp.OpRead, 2+i, read(64<<10))...)
	}
	for _, c := range []struct {
		name    string
		channel uint32
		b       []byte
	}{
		{"length 0", 1, make([]byte, 40)},
		{"shorter than a header", 1, []byte{39, 0, 0, 0}},
		{"length of an ack", 1, append([]byte{24, 0, 0, 0, 1}, make([]byte, 19)...)},
		{"longer than a message", 1, []byte{0, 0, 0, 1}},
		{"ack of what was never sent", 1, append([]byte{24}, append(make([]byte, 15), 9, 0, 0, 0, 0, 0, 0, 0)...)},
		{"ack of everything", 1, append([]byte{24}, append(make([]byte, 15), bytes.Repeat([]byte{255}, 8)...)...)},
		{"a reply on channel 0", 0, message(fp.OpGetattr, 1, make([]byte, 16))},
		{"more than the window", 1, flood},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newRecorder()
			_, path := startServer(t, h, Options{Recovery: recovery()})
			g := dialGuest(t, path)
			m, err := g.greet(hello{Channel: c.channel}, "", "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = g.Write(c.b) }()
			n := 0
			for {
				b, err := g.receive()
				if err != nil {
					break
				}
				n += len(b)
			}
			if n > int(m.Window) {
				t.Errorf("%d bytes of replies before the end, the window is %d", n, m.Window)
			}
			eventually(t, "the next guest", func() bool {
				_, err := dialGuest(t, path).greet(hello{Session: id{1}}, "", "")
				return err == nil
			})
		})
	}
}

// TestReplyRoom: a request that asks for more than there can be gets what there can be, and is
// counted so.
func TestReplyRoom(t *testing.T) {
	const most = minMessage
	for op := fp.Opcode(0); op < fp.NumOpcodes+1; op++ {
		for _, body := range [][]byte{nil, make([]byte, 7), bytes.Repeat([]byte{255}, 200)} {
			n := replyRoom(message(op, 1, body), most)
			if n < 0 || n > most || n > 0 && n < outHeaderSize || (n == 0) != op.Shape().NoReply {
				t.Errorf("%v with %d bytes: room for %d", op, len(body), n)
			}
		}
	}
}

// TestBusy: a share has one mount at a time, and one guest.
func TestBusy(t *testing.T) {
	var mu sync.Mutex
	address := "cid 3"
	h := newRecorder()
	_, path := startServer(t, h, Options{Admit: func(net.Addr) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return address, nil
	}})
	first := dialGuest(t, path)
	if _, err := first.greet(hello{Session: id{1}}, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := dialGuest(t, path).greet(hello{Session: id{2}}, "", ""); !errors.Is(err, ErrBusy) {
		t.Errorf("a second mount: %v", err)
	}
	mu.Lock()
	address = "cid 4"
	mu.Unlock()
	if _, err := dialGuest(t, path).greet(hello{Session: id{1}, Mode: modeResume, Channel: 1}, "", ""); !errors.Is(err, ErrStale) {
		t.Errorf("another guest with the session's number: %v", err)
	}
	_ = first.Close()
	if _, err := dialGuest(t, path).greet(hello{Session: id{2}}, "", ""); !errors.Is(err, ErrBusy) {
		t.Errorf("another guest: %v", err)
	}
	mu.Lock()
	address = "cid 3"
	mu.Unlock()
	// Rebooted, it begins anew, and the session before has ended.
	eventually(t, "a new session of the same guest", func() bool {
		_, err := dialGuest(t, path).greet(hello{Session: id{3}}, "", "")
		return err == nil
	})
	if n := h.ends.Load(); n != 1 {
		t.Errorf("%d sessions have ended", n)
	}
}

// TestMountAgain: who mounts at once after an unmount does not hear that the share is in use, and who
// does so while it is mounted hears it.
func TestMountAgain(t *testing.T) {
	_, path := startServer(t, newRecorder(), Options{})
	first := dialGuest(t, path)
	if _, err := first.greet(hello{Session: id{1}}, "", ""); err != nil {
		t.Fatal(err)
	}
	o := ClientOptions{Dial: dialer(path), Channels: 1, Log: quiet()}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrBusy) {
		t.Errorf("while it is mounted: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = first.Close() })
	for range 20 { // a busy machine may need longer for it than Dial waits
		c, err := Dial(t.Context(), o)
		if err == nil {
			c.Close()
			return
		}
		t.Log(err)
	}
	t.Error("the share stays in use")
}

// TestRestored: of two guests that were restored from one state one can go on, and one only.
func TestRestored(t *testing.T) {
	_, path := startServer(t, newRecorder(), Options{})
	g := dialGuest(t, path)
	m, err := g.greet(hello{Channel: 1}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write(message(fp.OpGetattr, 1, make([]byte, 16))); err != nil {
		t.Fatal(err)
	}
	if _, err := g.receive(); err != nil {
		t.Fatal(err)
	}
	now := hello{Mode: modeResume, Channel: 1, Ticket: m.Ticket, At: position{First: 1, Sent: 1, Received: 1}}
	before := now
	before.At = position{}
	for _, old := range []hello{before, {Mode: modeResume, Channel: 1, At: now.At}} {
		if _, err := dialGuest(t, path).greet(old, "", ""); !errors.Is(err, ErrStale) {
			t.Errorf("a guest from before: %v", err)
		}
	}
	if _, err := g.Write(message(fp.OpGetattr, 4, make([]byte, 16))); err != nil {
		t.Fatal("the guest that is connected was disturbed: ", err)
	}
	if _, err := g.receive(); err != nil {
		t.Fatal("the guest that is connected was disturbed: ", err)
	}
	now.At = position{First: 2, Sent: 2, Received: 2}
	clone := dialGuest(t, path)
	if _, err := clone.greet(now, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := clone.Write(message(fp.OpGetattr, 7, make([]byte, 16))); err != nil {
		t.Fatal(err)
	}
	if _, err := clone.receive(); err != nil {
		t.Fatal(err)
	}
	if _, err := dialGuest(t, path).greet(now, "", ""); !errors.Is(err, ErrStale) {
		t.Errorf("the second clone: %v", err)
	}
}

// TestWelcomeLost: a guest that has not got the answer to its hello may say it again.
func TestWelcomeLost(t *testing.T) {
	_, path := startServer(t, newRecorder(), Options{})
	first, err := dialGuest(t, path).greet(hello{Channel: 1}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		g := dialGuest(t, path)
		if _, err := g.greet(hello{Mode: modeResume, Channel: 1, Ticket: first.Ticket}, "", ""); err != nil {
			t.Fatal(err)
		}
		_ = g.Close()
	}
}

// TestNotify: a notification comes after the replies that were given before it, even if their
// channel has no connection at that time.
func TestNotify(t *testing.T) {
	p := newPair(t, 2, Options{})
	if err := p.server.Notify(fp.NotifyInvalInode, make([]byte, maxMessage)); err == nil {
		t.Error("a notification of any length is sent")
	}
	first := p.kernels[0] // it is told
	first.atNote = func() (n []uint64) { return []uint64{0, uint64(first.answered), uint64(p.kernels[1].replies())} }
	for i := range uint64(200) {
		for j := range uint64(4) { // those whose number 3 divides are answered at any time
			p.kernels[j%2].ask(fp.OpRead, 4*i+j+1, 100<<10)
		}
		if i%7 == 0 {
			p.cutter.cut()
		}
		var given []uint64
		for _, c := range p.server.session.channels {
			given = append(given, c.out.sent())
		}
		if err := p.server.Notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: i})); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the notification", func() bool {
			first.mu.Lock()
			defer first.mu.Unlock()
			return len(first.notes) == int(i)+1
		})
		first.mu.Lock()
		note, at := first.notes[i], first.atNotes[i]
		first.mu.Unlock()
		var in fp.NotifyInvalInodeOut
		copy(fp.Bytes(&in), note[outHeaderSize:])
		if in.Ino != i {
			t.Fatalf("notification %d is of %d", i, in.Ino)
		}
		for j := 1; j < len(at); j++ {
			if at[j] < given[j] {
				t.Errorf("notification %d: channel %d has delivered %d replies of %d that were given before", i, j, at[j], given[j])
			}
		}
	}
}

// TestNotifyNobody: without a client, or with one that takes nothing, Notify returns an error.
func TestNotifyNobody(t *testing.T) {
	s, path := startServer(t, newRecorder(), Options{})
	note := fp.Bytes(&fp.NotifyInvalInodeOut{Ino: 1})
	if err := s.Notify(fp.NotifyInvalInode, note); !errors.Is(err, ErrNobody) {
		t.Errorf("no session: %v", err)
	}
	if _, err := dialGuest(t, path).greet(hello{}, "", ""); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		if err := s.Notify(fp.NotifyInvalInode, note, make([]byte, 4000)); err != nil {
			if !errors.Is(err, ErrNobody) {
				t.Error(err)
			}
			break
		}
	}
	if size := n * 4000; size > windowMessages*messageSize(DefaultMaxWrite) {
		t.Errorf("%d bytes of notifications are kept", size)
	}
}

// TestLogIsBounded: a guest's processes can't fill the log.
func TestLogIsBounded(t *testing.T) {
	var log daemontest.Log
	_, path := startServer(t, newRecorder(), Options{Token: []byte("secret"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	start := time.Now()
	for range 200 {
		_, _ = dialGuest(t, path).greet(hello{}, "", "wrong")
	}
	most := 12 + int(time.Since(start)/time.Second)
	if n := strings.Count(log.String(), "refused"); n == 0 || n > most {
		t.Errorf("%d messages for 200 refusals, want 1 to %d", n, most)
	}
}

// TestKeptMemory: requests of some KiB that wait do not keep the memory of much longer ones.
func TestKeptMemory(t *testing.T) {
	h := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
	defer close(h.wait)
	_, path := startServer(t, h, Options{})
	g := dialGuest(t, path)
	if _, err := g.greet(hello{Channel: 1}, "", ""); err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const many = 400
	for i := range uint64(many) {
		if _, err := g.Write(message(fp.OpWrite, 2*i+3, make([]byte, 5000))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all requests", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.times) == many })
	if now := heap(); now > before+50<<20 {
		t.Errorf("%d requests of 5 KiB keep %d MiB", many, (now-before)>>20)
	}
}
