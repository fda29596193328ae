package server

import (
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func BenchmarkHandle(b *testing.B) {
	_, thread := newServer(b, &fakeFS{lookup: func(*Request, fp.Name, *fp.EntryOut) unix.Errno { return 0 }}, Options{})
	read := fp.ReadIn{Size: 4096}
	for op, body := range map[fp.Opcode][]byte{fp.OpLookup: []byte("name\x00"), fp.OpGetattr: make([]byte, 16), fp.OpRead: fp.Bytes(&read)} {
		b.Run(op.String(), func(b *testing.B) {
			in, out := split(message(op, body), 1<<20), split(make([]byte, 16+4096), 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				handle(thread, in, out)
			}
		})
	}
}

// BenchmarkTurn is what the watch costs each request.
func BenchmarkTurn(b *testing.B) {
	s := New(&fakeFS{}, Options{})
	t := newThread(s)
	s.watch.asleep.Store(false)
	for b.Loop() {
		if s.watch.detour.Load() != 0 && t.detours(&ops[1]) {
			b.Fatal("a detour")
		}
		t.enter()
		t.leave()
	}
}
