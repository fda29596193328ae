package vhostuser

import (
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// FuzzReceive sends any bytes, in any pieces and with descriptors anywhere, and receives
// them as requests and answers of either side. The first byte of the input is the direction;
// then each piece is the number of its bytes (low 6 bits), of its descriptors (high 2 bits,
// times 5), and the bytes.
func FuzzReceive(f *testing.F) {
	for _, seed := range receiveSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 {
			return
		}
		d := Direction(input[0] & 1)
		event := fuzzFDs()[1]
		before := openFDs(t)
		a, b := socketpair.New(t)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			defer a.Close()
			sendPieces(a, input[1:], event)
		}()
		s := NewSocket(b, d)
		for {
			m, err := s.Receive()
			if err != nil {
				break
			}
			checkReceived(t, m)
			m.Close()
		}
		_ = b.Close() // which ends the sender as well
		<-sent
		if n := openFDs(t); n > before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
	})
}

// sendPieces sends what the input says, until it ends or nobody receives.
func sendPieces(to *net.UnixConn, in []byte, fd int) {
	for len(in) > 0 {
		n := min(int(in[0]&63), len(in)-1)
		var oob []byte
		if fds := int(in[0]>>6) * 5; fds > 0 {
			oob = unix.UnixRights(slices.Repeat([]int{fd}, fds)...)
		}
		if n > 0 {
			if _, _, err := to.WriteMsgUnix(in[1:1+n], oob, nil); err != nil {
				return
			}
		}
		in = in[1+n:]
	}
}

// checkReceived holds a message to its limits, and to its row if it has passed the check.
func checkReceived(t *testing.T, m *Message) {
	t.Helper()
	if len(m.Body) > MaxBodySize || len(m.FDs) > 2*MaxMessageFDs {
		t.Errorf("%s: %d bytes, %d descriptors", m, len(m.Body), len(m.FDs))
	}
	f := FormatOf(m.Direction, m.Number)
	if m.Check(^ProtocolFeatures(0)) == nil && (f == nil || !f.Body.Has(len(m.Body)) || !f.FDs.Has(len(m.FDs)) || m.FDsLost) {
		t.Errorf("%s: a request of %d bytes with %d descriptors passes", m, len(m.Body), len(m.FDs))
	}
	if m.CheckReply(m.Number) == nil && (m.Flags&FlagReply == 0 || len(m.FDs) > 1 || m.FDsLost) {
		t.Errorf("%s: an answer with flags %#x and %d descriptors passes", m, m.Flags, len(m.FDs))
	}
}

// receiveSeeds are each request and each answer, of the least size, at once and in bytes.
func receiveSeeds() (seeds [][]byte) {
	add := func(d Direction, n uint32, flags uint32, size, fds int) {
		b := frame(Request(n), flags, make([]byte, size))
		whole := []byte{byte(d)}
		for i := 0; i < len(b); i += 63 {
			piece := b[i:min(i+63, len(b))]
			head := byte(len(piece))
			if i == 0 && fds > 0 {
				head |= 1 << 6
			}
			whole = append(append(whole, head), piece...)
		}
		seeds = append(seeds, whole)
	}
	for d := range formats {
		for n, f := range formats[d] {
			if f.Answer.Kind != NoAnswer {
				add(Direction(d), uint32(n), FlagVersion|FlagNeedReply, f.Body.Min, f.FDs.Min)
				add(Direction(d), uint32(n), FlagVersion|FlagReply, f.Answer.Body.Min, f.Answer.FDs.Min)
			}
		}
	}
	single := []byte{0}
	for _, c := range frame(ReqSetVringCall, FlagVersion, replyU64(0)) {
		single = append(single, 1|1<<6, c)
	}
	return append(seeds, single)
}
