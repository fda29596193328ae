package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const rootID = fp.RootID

// alive checks that the device still serves.
func (s *share) alive(t *testing.T, after string) {
	t.Helper()
	if _, err := s.Getattr(rootID); err != nil {
		t.Fatalf("after %s: %v", after, err)
	}
}

// raw sends a request with any body and returns its errno; 0 is success.
func (s *share) raw(t *testing.T, r *frontend.Request) unix.Errno {
	t.Helper()
	_, err := s.Do(r)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		t.Fatalf("%s: %v", r.Op, err)
	}
	return errno
}

// canary is a directory outside of the share that must stay as it is.
func canary(t *testing.T) (dir string, check func()) {
	dir = t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		b, err := os.ReadFile(file)
		list, _ := os.ReadDir(dir)
		if err != nil || string(b) != "untouched" || len(list) != 1 {
			t.Fatalf("a file outside the share was changed: %q, %v, %v", b, err, list)
		}
	}
}

func zero(n int) []byte { return make([]byte, n) }

func str(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

// TestHostileNames sends each name that is not one path component with each opcode
// that takes a name. No sandbox is on.
func TestHostileNames(t *testing.T) {
	dir, check := canary(t)
	s := open(t, defaults(), frontend.Options{})
	if err := os.WriteFile(filepath.Join(s.dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := s.Lookup(rootID, "file")
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"absolute": filepath.Join(dir, "new") + "\x00", "slash": "a/b\x00", "dotdot": "..\x00", "dot": ".\x00",
		"empty": "\x00", "long": strings.Repeat("x", 256) + "\x00", "no NUL": "abc", "up": "../" + filepath.Base(dir) + "/file\x00",
	}
	for what, n := range bad {
		for _, r := range []*frontend.Request{
			{Op: fp.OpLookup, Body: str(n), Reply: 128},
			{Op: fp.OpMknod, Body: append(zero(16), n...), Reply: 128},
			{Op: fp.OpMkdir, Body: append(zero(8), n...), Reply: 128},
			{Op: fp.OpSymlink, Body: str(n, "target\x00"), Reply: 128},
			{Op: fp.OpUnlink, Body: str(n)},
			{Op: fp.OpRmdir, Body: str(n)},
			{Op: fp.OpRename, Body: append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, str(n, "x\x00")...)},
			{Op: fp.OpRename, Body: append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, str("file\x00", n)...)},
			{Op: fp.OpRename2, Body: append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, str(n, "x\x00")...)},
			{Op: fp.OpRename2, Body: append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, str("file\x00", n)...)},
			{Op: fp.OpLink, Body: append([]byte{byte(file.NodeID), 0, 0, 0, 0, 0, 0, 0}, n...), Reply: 128},
			{Op: fp.OpCreate, Body: append(zero(16), n...), Reply: 144},
		} {
			r.NodeID = rootID
			if errno := s.raw(t, r); errno == 0 {
				t.Errorf("%s with name %s succeeded", r.Op, what)
			}
		}
		s.alive(t, what)
	}
	check()
	if _, err := os.Stat(filepath.Join(s.dir, "file")); err != nil {
		t.Error(err)
	}
}

// TestShortRequests sends every opcode with every body length that is too short,
// and with wrong lengths in the header.
func TestShortRequests(t *testing.T) {
	s := open(t, defaults(), frontend.Options{})
	for op := fp.Opcode(0); op < 70; op++ {
		if op == fp.OpDestroy || op == fp.OpInit {
			continue
		}
		for n := range 48 {
			r := &frontend.Request{Op: op, NodeID: rootID, Body: zero(n), Reply: 256}
			if op == fp.OpForget || op == fp.OpBatchForget || op == fp.OpInterrupt {
				r.Reply = -1
			}
			s.raw(t, r)
		}
		for _, lie := range []uint32{1, 39, 41, 1 << 20, 0xffffffff} {
			r := &frontend.Request{Op: op, NodeID: rootID, Body: zero(64), Reply: 256, Len: lie}
			if op == fp.OpForget || op == fp.OpBatchForget || op == fp.OpInterrupt {
				continue
			}
			if errno := s.raw(t, r); errno == 0 {
				t.Errorf("%s with length %d succeeded", op, lie)
			}
		}
	}
	s.alive(t, "short requests")
}

// TestReplyRoom gives every opcode too little room for its reply. A request must
// have no effect that its reply does not report.
func TestReplyRoom(t *testing.T) {
	s := open(t, defaults(), frontend.Options{})
	q := s.Queues[1]
	for op := fp.Opcode(1); op < 54; op++ {
		if op == fp.OpDestroy || op == fp.OpInit || op == fp.OpForget || op == fp.OpBatchForget || op == fp.OpInterrupt {
			continue
		}
		for _, room := range []int{0, 1, 8, 15, 16, 17, 24, 100} {
			b := append(zero(8), "name\x00target\x00"...)
			if op == fp.OpLookup || op == fp.OpSymlink || op == fp.OpUnlink || op == fp.OpRmdir {
				b = []byte("name\x00target\x00")
			}
			written, _ := s.DoRaw(q, op, rootID, append(b, zero(64)...), room)
			if int(written) > room {
				t.Errorf("%s: %d bytes written, room for %d", op, written, room)
			}
			if room >= 16 && written < 16 {
				t.Errorf("%s: no answer with room for %d", op, room)
			}
		}
	}
	s.alive(t, "small replies")
}

// TestForgedNumbers uses nodes and fh that the client does not have, or of the
// wrong kind, with extreme offsets and sizes.
func TestForgedNumbers(t *testing.T) {
	s := open(t, defaults(), frontend.Options{})
	c, err := s.Create(rootID, "file", unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Opendir(rootID)
	if err != nil {
		t.Fatal(err)
	}
	node, fh := c.Entry.NodeID, c.Open.Fh
	expect := func(what string, err error, want ...unix.Errno) {
		t.Helper()
		for _, w := range want {
			if errors.Is(err, w) {
				return
			}
		}
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	for _, id := range []uint64{0, 2 << 32, 3, 1 << 63, ^uint64(0), 1<<32 | 1, node + 1, node | 1<<40} {
		_, err := s.Getattr(id)
		expect(fmt.Sprintf("getattr of node %#x", id), err, unix.ESTALE, unix.ENOENT)
		_, err = s.Lookup(id, "x")
		expect("lookup", err, unix.ESTALE, unix.ENOENT)
		_, err = s.Read(node, id, 0, 10)
		expect(fmt.Sprintf("read of handle %#x", id), err, unix.EBADF, unix.EISDIR)
		if err := s.Forget(id, ^uint64(0)); err != nil {
			t.Error(err)
		}
	}
	_, err = s.Read(rootID, fh, 0, 10)
	expect("read of a file's handle through another node", err, unix.EBADF)
	_, err = s.Read(rootID, dir, 0, 10)
	expect("read of a directory", err, unix.EISDIR, unix.EBADF)
	_, err = s.Readdir(node, fh, 0, 4096, false)
	expect("readdir of a file", err, unix.ENOTDIR, unix.EBADF)
	_, err = s.Readdir(rootID, dir, 0, 8, false)
	expect("readdir without room", err, unix.EINVAL)
	for _, off := range []uint64{1 << 63, ^uint64(0), 1<<63 - 1} {
		_, err = s.Read(node, fh, off, 4096)
		expect("read far away", err, unix.EINVAL, unix.EFBIG)
		_, err = s.Write(node, fh, off, []byte("x"))
		expect("write far away", err, unix.EINVAL, unix.EFBIG)
		_, err = s.Lseek(node, fh, off, unix.SEEK_DATA)
		expect("lseek far away", err, unix.EINVAL, unix.ENXIO)
		expect("fallocate far away", s.Fallocate(node, fh, off, 4096, 0), unix.EINVAL, unix.EFBIG)
	}
	for _, size := range []uint32{0xffffffff, 1<<20 + 1, 1 << 31} {
		in := fp.ReadIn{Fh: fh, Size: size}
		expect("read of a huge size", errnoOf(s.raw(t, &frontend.Request{Op: fp.OpRead, NodeID: node, Body: fp.Bytes(&in), Read: 4096})), unix.EINVAL)
		w := fp.WriteIn{Fh: fh, Size: size}
		expect("write of a huge size", errnoOf(s.raw(t, &frontend.Request{Op: fp.OpWrite, NodeID: node, Body: fp.Bytes(&w), Data: zero(10), Reply: 8})), unix.EINVAL)
	}
	expect("rmdir of a file", s.Rmdir(rootID, "file"), unix.ENOTDIR)
	if err := s.Release(node, fh); err != nil {
		t.Error(err)
	}
	expect("second release", s.Release(node, fh), unix.EBADF)
	_, err = s.Mknod(node, "x", unix.S_IFREG|0o644, 0)
	expect("mknod in a file", err, unix.ENOTDIR)
	_, err = s.Lookup(node, "x")
	expect("lookup in a file", err, unix.ENOTDIR)
	s.alive(t, "forged numbers")
}

func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// TestSession sends requests before INIT, INIT twice, and INIT after DESTROY.
func TestSession(t *testing.T) {
	d, _ := newDevice(t, t.TempDir(), defaults(), 1)
	f, done := connect(t, d, frontend.Options{})
	defer func() { f.Close(); <-done }()
	c := frontend.NewClient(f)
	if _, err := c.Getattr(rootID); err == nil {
		t.Error("a request before INIT succeeded")
	}
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	if c.Init.Minor != fp.KernelMinorVersion || c.Init.MaxWrite != 1<<20 {
		t.Errorf("INIT answers %+v", c.Init)
	}
	if err := c.Handshake(frontend.AllFlags); err == nil {
		t.Error("a second INIT succeeded")
	}
	if _, err := c.Getattr(rootID); err != nil {
		t.Error(err)
	}
	if err := f.Stop(); err != nil { // a paused guest goes on
		t.Fatal(err)
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Getattr(rootID); err != nil {
		t.Error("after a pause:", err)
	}
	if err := c.Handshake(frontend.AllFlags); err != nil { // a rebooted guest begins anew
		t.Error("INIT after a restart of the queues:", err)
	}
	if err := c.Destroy(); err != nil {
		t.Error(err)
	}
	if _, err := c.Getattr(rootID); err == nil {
		t.Error("a request after DESTROY succeeded")
	}
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Error("INIT after DESTROY:", err)
	}
}

// TestBadChains puts malformed descriptor chains in a ring.
func TestBadChains(t *testing.T) {
	s := open(t, defaults(), frontend.Options{QueueSize: 64, Slots: 4})
	q := s.Queues[1]
	const d = 40                                           // descriptors that no slot uses
	mem := uint64(frontend.GuestBase) + uint64(q.Offset()) // the descriptor table
	buf := q.Slots[3].DataAddr()
	far := uint64(0xffff_ffff_ffff_f000)
	chains := map[string][]frontend.Desc{
		"loop":                {{Addr: mem, Len: 40, Flags: frontend.DescNext, Next: d}},
		"long loop":           {{Addr: mem, Len: 1, Flags: frontend.DescNext, Next: d + 1}, {Addr: mem, Len: 1, Flags: frontend.DescNext, Next: d}},
		"outside":             {{Addr: 0x10, Len: 40}},
		"wraps":               {{Addr: far, Len: 0xffffffff}},
		"next beyond":         {{Addr: mem, Len: 40, Flags: frontend.DescNext, Next: 64}},
		"next far beyond":     {{Addr: mem, Len: 40, Flags: frontend.DescNext, Next: 0xffff}},
		"readable after":      {{Addr: buf, Len: 16, Flags: frontend.DescWrite | frontend.DescNext, Next: d + 1}, {Addr: mem, Len: 40}},
		"empty table":         {{Addr: mem, Len: 0, Flags: frontend.DescIndirect}},
		"odd table":           {{Addr: mem, Len: 17, Flags: frontend.DescIndirect}},
		"table outside":       {{Addr: 8, Len: 16, Flags: frontend.DescIndirect}},
		"huge table":          {{Addr: mem, Len: 0xfffffff0, Flags: frontend.DescIndirect}},
		"table with next":     {{Addr: mem, Len: 16, Flags: frontend.DescIndirect | frontend.DescNext, Next: d + 1}},
		"nested table":        {{Addr: mem + 16*(d+1), Len: 16, Flags: frontend.DescIndirect}, {Addr: mem, Len: 16, Flags: frontend.DescIndirect}},
		"zero length":         {{Addr: mem, Len: 0}},
		"over 2^32 in a loop": {{Addr: mem, Len: 0x7fffffff, Flags: frontend.DescNext, Next: d}},
		"ten bytes":           {{Addr: mem, Len: 10, Flags: frontend.DescNext, Next: d + 1}, {Addr: buf, Len: 64, Flags: frontend.DescWrite}},
		"only writable":       {{Addr: buf, Len: 64, Flags: frontend.DescWrite}},
	}
	for what, list := range chains {
		for i, desc := range list {
			q.SetDesc(uint16(d+i), desc)
		}
		q.Offer(d)
		s.alive(t, what)
	}
	q.Offer(63) // a descriptor of zeros
	q.Offer(64) // heads that are none
	q.Offer(0xffff)
	s.alive(t, "bad heads")
}
