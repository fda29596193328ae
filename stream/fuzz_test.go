package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	_ = writeHello(&b, hello{Channels: 2}, "share", []byte("token"))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, share, token, err := readHello(bytes.NewReader(b))
		if err == nil && (len(share) > maxShare || len(token) > maxToken || h.Version != version) {
			t.Error(h, fmt.Sprint(len(share), len(token)))
		}
		_, _ = readWelcome(bytes.NewReader(b))
	})
}

// FuzzMessages: whatever a guest sends after its hello, each whole request is handled once and the
// counts stay in their limits.
func FuzzMessages(f *testing.F) {
	f.Add(append(message(fp.OpGetattr, 1, make([]byte, 16)), message(fp.OpRead, 2, fp.Bytes(&fp.ReadIn{Size: 5000}))...), uint32(1))
	f.Add(message(fp.OpForget, 3, make([]byte, 8)), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, channel uint32) {
		s, err := New(newRecorder(), Options{Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		n := newSession(s, "", hello{Channels: 2})
		defer n.close()
		c := n.channels[channel%2]
		c.in = make([]byte, 2*c.buffers.largest)
		th := &recorderThread{h: s.handler.(*recorder)}
		var m fuse.Message
		for len(b) > 0 {
			k := copy(c.in[c.w:], b)
			if k == 0 {
				t.Fatal("no room for the rest of a message")
			}
			c.w += k
			b = b[k:]
			for {
				one, err := c.next()
				if err != nil {
					return
				}
				if one == nil {
					break
				}
				if err := c.message(th, &m, one); err != nil {
					return
				}
				if c.used < 0 || c.used > c.window {
					t.Fatalf("%d of %d are used", c.used, c.window)
				}
			}
		}
	})
}

// FuzzState: whatever is in the file of a saved session, the session is refused, or has no more than a channel may have.
func FuzzState(f *testing.F) {
	var part bytes.Buffer
	w := record.NewWriter(&part)
	w.Bytes(make([]byte, 16))
	w.Bytes([]byte("CID 3"))
	w.Uint(DefaultMaxWrite, minChannels)
	for range minChannels {
		w.Bytes(make([]byte, 16))
		w.Bytes(make([]byte, 16))
		w.Uint(5, 6, 1, 5000)
		w.Bytes(make([]byte, outHeaderSize))
	}
	if err := w.Flush(); err != nil {
		f.Fatal(err)
	}
	f.Add(append(append(binary.LittleEndian.AppendUint64([]byte(stateMagic), uint64(part.Len())), part.Bytes()...), "recorder"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := New(newRecorder(), Options{Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		if s.Load(bytes.NewReader(b)) != nil || s.session == nil {
			return
		}
		for _, c := range s.session.channels {
			if c.used < 0 || c.used > c.window || c.out.bytes > c.window {
				t.Errorf("%d bytes are used, %d are kept, of %d", c.used, c.out.bytes, c.window)
			}
		}
		s.close()
	})
}
