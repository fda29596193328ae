package ledger

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// printed is what a view prints.
func printed(t testing.TB, v *View) string {
	t.Helper()
	var b bytes.Buffer
	if err := v.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPrint: a ledger, read by another descriptor while it is open, and a copy of it in an ordinary
// file print the same, and looking gives the file no memory.
func TestPrint(t *testing.T) {
	l := create(t)
	l.Begin()
	s := begin(t, l)
	l.Serving()
	a, err := l.Area(AreaSession)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Store([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	q, err := l.Queue(2, 16)
	if err != nil {
		t.Fatal(err)
	}
	q.Begin(7, 40)
	c := q.Cell(9)
	c.Take(&fp.InHeader{Opcode: uint32(fp.OpCreate), Unique: 10, NodeID: 1}, q.Order(), 40, 77)
	q.SetNext(41)
	c.Intend(1234, fuse.Evidence{0xa, 0xb})
	n := s.lookup(c, 5, 0, "line\nfeed \"and\" \xff", true)
	n.Hold()
	s.opens.Add(c, &opened{node: n, flags: 0x8002})
	n.Lock()
	s.nodes.SetFileHandle(n, []byte{1, 0, 0, 0, 0xab})
	n.Unlock()
	owner, _ := s.store.AddLockOwner(&LockOwner{Node: 2, Number: 77, Open: 1, PID: 4711})
	lock, _ := s.store.NewLock()
	s.store.SetLock(lock, &Lock{Owner: owner, Exclusive: true, Start: 10, End: 19})
	q.Cell(3).Take(&fp.InHeader{Opcode: 999}, q.Order(), 41, 0)

	other, err := os.Open(filepath.Join("/proc/self/fd", strconv.Itoa(l.FD())))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	blocks := blocksOf(t, l.FD())
	v, err := OpenView(int(other.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	got := printed(t, v)
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if after := blocksOf(t, l.FD()); after != blocks {
		t.Errorf("looking gave the file %d blocks", after-blocks)
	}
	for _, want := range []string{
		"ledger version=2 oldest=2 generation=1 serving=yes ended=no memory=",
		"area name=session bytes=5\n",
		"ring queue=2 next=41 taken=1\n",
		"request queue=2 head=3 opcode=opcode-999 unique=0 node=0 phase=taken tries=0 order=2 index=41 started-ns=0\n",
		"request queue=2 head=9 opcode=CREATE unique=10 node=1 phase=intent tries=0 order=1 index=40 started-ns=77 stamp-ns=1234 evidence=[a b 0 0 0] grants=2\n",
		"node id=1 lookups=1 dev=0:7 ino=0 mount=3 kind=8 birth=-1.000000000\n",
		`node id=2 lookups=1 parent-slot=1 name="line\nfeed \"and\" \xff" dev=0:7 ino=5 mount=3 kind=8 birth=-1.000000000 file-handle=01000000ab` + "\n",
		"open id=1 node-slot=2 flags=0x8002 bits=0x0\n",
		"lock-owner record=1 node=2 number=77 open=1 pid=4711\n",
		"lock record=1 owner-record=1 exclusive=yes start=10 end=19\n",
		"end requests=2 nodes=2 opens=1 lock-owners=1 locks=1\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(fileSize); err != nil {
		t.Skip(err) // such a file system has no sparse files of this size
	}
	for _, e := range imageOf(t, l) {
		if _, err := f.WriteAt(e.b, e.at); err != nil {
			t.Fatal(err)
		}
	}
	if v, err = ViewCopy(f); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, want, _ := strings.Cut(got, "\n") // the memory of the two files differs
	if _, have, _ := strings.Cut(printed(t, v), "\n"); have != want {
		t.Errorf("the copy prints\n%s", have)
	}
	if err := f.Truncate(100 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if v, err := ViewCopy(f); err != nil {
		t.Errorf("half of a copy: %v", err)
	} else {
		defer v.Close()
		printed(t, v)
	}
}

func blocksOf(t *testing.T, fd int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}
