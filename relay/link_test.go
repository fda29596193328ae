package relay

import (
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// newPair makes a link whose program is the test, at the other end of the socket.
func newPair(t testing.TB) (l *link, program int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	l, err = newLink(&Mounted{Socket: os.NewFile(uintptr(pair[0]), "pair"), Done: done}, 1, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l.notify = func(*link, fp.NotifyCode, []byte, bool) {}
	l.late, l.letGo = func(*link, *orphan, []byte) {}, func(*orphan) {}
	l.maxTotal, l.maxForgets = maxPacket, 1000
	if err := l.unpoll(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.end(nil)
		_ = unix.Close(pair[1])
	})
	return l, pair[1]
}

// TestTurns: while requests wait for room in the program's socket, INTERRUPT goes before them, and FORGET after a few.
func TestTurns(t *testing.T) {
	l, program := newPair(t)
	data := make([]byte, 32<<10)
	var waiting, all []*call
	for len(waiting) < 3*betweenForgets {
		c := newCall()
		c.header.Opcode, c.tail = uint32(fp.OpStatfs), data
		if errno := l.do(c); errno != 0 {
			t.Fatal(errno)
		}
		all = append(all, c)
		if c.queued {
			waiting = append(waiting, c)
		}
	}
	for id := range uint64(10) {
		l.forget(100+id, 1)
	}
	l.interrupt(all[0].header.Unique)
	buf, ops := make([]byte, maxPacket), []fp.Opcode{}
	for len(ops) < len(all)+2 {
		if n, err := unix.Read(program, buf); err != nil || n < inHeaderSize {
			t.Fatalf("%d bytes, %v, after %d messages", n, err, len(ops))
		}
		ops = append(ops, fp.Opcode((*fp.InHeader)(unsafe.Pointer(&buf[0])).Opcode))
	}
	sent := len(all) - len(waiting)
	if ops[sent] != fp.OpInterrupt || ops[sent+1+betweenForgets] != fp.OpBatchForget {
		t.Errorf("%d requests were sent, %d waited; the program has got %v", sent, len(waiting), ops)
	}
}

// TestReceivesWhileFull: a link begins to receive also while requests wait for room in the program's socket: the program may read on only
// when its replies are taken.
func TestReceivesWhileFull(t *testing.T) {
	l, program := newPair(t)
	got := make(chan struct{}, 1)
	l.notify = func(*link, fp.NotifyCode, []byte, bool) { got <- struct{}{} }
	l.io.RLock() // as the flusher does
	defer l.io.RUnlock()
	go l.run()
	h := fp.OutHeader{Len: uint32(outHeaderSize), Error: int32(fp.NotifyPoll)}
	if _, err := unix.Write(program, fp.Bytes(&h)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(deadline):
		t.Error("nothing is received")
	}
}

// TestLostReplies: a program that owes too many replies gets no more requests, but those that it has owed for long do not
// count, up to a limit.
func TestLostReplies(t *testing.T) {
	l, _ := newPair(t)
	now := time.Now()
	owe := func(from, n int, since time.Time) {
		for i := range n {
			l.orphans[uint64(from+i)*2] = orphan{since: since}
		}
	}
	owe(1, maxOrphans, now)
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {orphanAge - time.Second, true}, {orphanAge, false}} {
		if got := l.owesTooMuch(now.Add(c.after)); got != c.want {
			t.Errorf("after %v: too much is %v", c.after, got)
		}
	}
	l.deliver(&fp.OutHeader{Unique: 2, Len: uint32(outHeaderSize)}, nil, false)
	if l.lost != maxOrphans-1 || len(l.orphans) != maxOrphans-1 {
		t.Errorf("after a late reply %d are lost of %d", l.lost, len(l.orphans))
	}
	owe(maxOrphans+1, maxLost+1, now)
	if !l.owesTooMuch(now.Add(2 * orphanAge)) {
		t.Errorf("%d lost replies are not too much", len(l.orphans))
	}
}

// startEcho starts echo, which ends before the test does.
func startEcho(t testing.TB, program int, body []byte) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		echo(program, body)
	}()
	t.Cleanup(func() {
		_ = unix.Shutdown(program, unix.SHUT_RDWR)
		<-ended
	})
}

// echo is a program that answers everything at once with the same bytes, and makes nothing for it.
func echo(program int, body []byte) {
	in, out := make([]byte, maxPacket), make([]byte, outHeaderSize+len(body))
	copy(out[outHeaderSize:], body)
	for {
		n, err := unix.Read(program, in)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < inHeaderSize {
			return
		}
		h := (*fp.OutHeader)(unsafe.Pointer(&out[0]))
		h.Unique, h.Len = (*fp.InHeader)(unsafe.Pointer(&in[0])).Unique, uint32(len(out))
		if _, err := unix.Write(program, out); err != nil {
			return
		}
	}
}

// TestCopies: the data of WRITE goes from the client's memory to the socket, and that of READ from the socket to the client's
// memory, in one system call each and without a buffer of the relay's.
func TestCopies(t *testing.T) {
	l, program := newPair(t)
	const size = MaxData
	text := make([]byte, size)
	for i := range text {
		text[i] = 'd'
	}
	startEcho(t, program, text)
	l.looksMore = 1 // as after any READ
	go l.run()
	memory := make([]byte, size)
	pieces := fuse.Buffers{}
	for i := 0; i < size; i += 4096 {
		v := unix.Iovec{Base: &memory[i]}
		v.SetLen(4096)
		pieces = append(pieces, v)
	}
	read := newCall()
	read.header.Opcode, read.form, read.dst = uint32(fp.OpRead), formData, pieces
	bodyOf[fp.ReadIn](read).Size = size
	if errno := l.do(read); errno != 0 {
		t.Fatal(errno)
	}
	<-read.done
	if read.errno != 0 || read.n != size || string(memory) != string(text) {
		t.Fatalf("READ: %d bytes, %v", read.n, read.errno)
	}
	if read.bounce != nil || l.received[0] != 0 || l.received[len(l.received)-1000] != 0 {
		t.Error("the data of READ was in a buffer of the relay's")
	}
	write := newCall()
	write.header.Opcode, write.form, write.data = uint32(fp.OpWrite), formNone, pieces
	bodyOf[fp.WriteIn](write).Size = size
	if n := write.message(fp.KernelMinorVersion); n != inHeaderSize+fp.Size[fp.WriteIn]()+size || write.bounce != nil {
		t.Fatalf("WRITE has %d bytes, %d of them copied", n, len(write.bounce))
	}
	for i, v := range write.iov[1:] {
		if v.Base != pieces[i].Base || v.Len != pieces[i].Len {
			t.Errorf("piece %d is not the client's", i)
		}
	}
}

// TestCallsOfARequest: how many system calls on the program's socket a request costs, and what it allocates.
func TestCallsOfARequest(t *testing.T) {
	for _, c := range []struct {
		op                fp.Opcode
		form              form
		sends, receptions uint64
	}{
		{fp.OpGetattr, formAttr, 1, 1},
		{fp.OpWrite, formFixed, 1, 1},
		{fp.OpRead, formData, 1, 2}, // the first one looks where the data belongs
	} {
		l, program := newPair(t)
		body := make([]byte, fp.Size[fp.AttrOut]())
		fixed, memory := len(body), make([]byte, len(body))
		startEcho(t, program, body)
		go l.run()
		one := func() {
			r := newCall()
			r.header.Opcode, r.form, r.fixedSize = uint32(c.op), c.form, fixed
			if c.form == formData {
				r.dst = append(r.dst, unix.Iovec{Base: &memory[0], Len: uint64(len(memory))})
			}
			bodyOf[fp.ReadIn](r)
			if errno := l.do(r); errno != 0 {
				t.Error(errno)
				return
			}
			if <-r.done; r.errno != 0 || r.n != fixed {
				t.Errorf("%s: %d bytes, %v", c.op, r.n, r.errno)
			}
			r.free()
		}
		for range 10 { // the first one makes what the others use
			one()
		}
		const n = 1000
		sends, receptions := l.sends.Load(), l.receptions.Load()
		for range n {
			one()
		}
		if got := l.sends.Load() - sends; got != c.sends*n {
			t.Errorf("%s: %d system calls that send in %d requests", c.op, got, n)
		}
		if got := l.receptions.Load() - receptions; got > c.receptions*n+1 { // one waits for the next message
			t.Errorf("%s: %d system calls that receive in %d requests, want %d each", c.op, got, n, c.receptions)
		}
		most := 0.0
		if c.form == formData {
			most = 1 // the test's own list of pieces
		}
		if got := testing.AllocsPerRun(n, one); got > most && !raceEnabled {
			t.Errorf("%s: %v allocations", c.op, got)
		}
	}
}
