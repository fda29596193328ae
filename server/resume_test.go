package server

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// resumeFS says what Init and Resume were called with.
type resumeFS struct {
	fakeFS
	offered fp.InitFlags // by a session that is resumed
	session []bool
}

func (f *resumeFS) Init(p *InitParams) unix.Errno {
	if p.Resumed {
		f.offered = p.Offered
	}
	p.Flags |= f.want
	return 0
}

func (f *resumeFS) Resume(_ *Thread, session bool) (string, error) {
	f.session = append(f.session, session)
	return "", nil
}

// successor is a server over the ledger of another one.
func successor(t *testing.T, l *ledger.Ledger, want fp.InitFlags) (*Server, *resumeFS, error) {
	t.Helper()
	fs := &resumeFS{}
	fs.t, fs.want = t, want
	s := New(fs, Options{Ledger: l, Log: slog.New(slog.DiscardHandler)})
	return s, fs, s.Resume()
}

func newLedger(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestResume has a client go on with another server, which has only the ledger.
func TestResume(t *testing.T) {
	l := newLedger(t)
	first, fs, err := successor(t, l, fp.InitPosixLocks)
	if err != nil || len(fs.session) != 1 || fs.session[0] {
		t.Fatal("an empty ledger:", err, fs.session)
	}
	thread := newThread(first)
	if _, errno := serve(thread, fp.OpInit, initBody, 80); errno != 0 {
		t.Fatal("INIT:", errno)
	}
	in := fp.InterruptIn{Unique: 77}
	handle(thread, fuse.Over(message(fp.OpInterrupt, fp.Bytes(&in))), nil)
	had := *first.session.Load()
	first.Restarted()

	second, fs, err := successor(t, l, fp.InitPosixLocks)
	if err != nil || len(fs.session) != 1 || !fs.session[0] || fs.offered != had.flags {
		t.Fatal("the session is not resumed:", err, fs.session, fs.offered)
	}
	if has := *second.session.Load(); has != had || !second.restarted.Load() || second.waiting.early != first.waiting.early {
		t.Errorf("the session is %+v, want %+v", has, had)
	}
	if _, errno := serve(newThread(second), fp.OpGetattr, fp.Bytes(&fp.GetattrIn{}), 200); errno != 0 {
		t.Error("GETATTR:", errno)
	}
	// One that can do less can't go on.
	if had.flags&fp.InitPosixLocks == 0 {
		t.Fatal("the client has agreed to no locks")
	}
	if s, _, err := successor(t, l, 0); err == nil || s.session.Load() != nil {
		t.Error("a server without a feature that the client uses goes on")
	}
	second.Reset()
	if s, fs, err := successor(t, l, fp.InitPosixLocks); err != nil || s.session.Load() != nil || fs.session[0] {
		t.Error("after the end of the session:", err, fs.session)
	}
}

// TestResumeForged has a server take over from records that make no sense.
func TestResumeForged(t *testing.T) {
	l := newLedger(t)
	first, _, _ := successor(t, l, 0)
	if _, errno := serve(newThread(first), fp.OpInit, initBody, 80); errno != 0 {
		t.Fatal("INIT:", errno)
	}
	area, err := l.Area(ledger.AreaSession)
	if err != nil {
		t.Fatal(err)
	}
	good := area.Load()
	for i := range good {
		for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			forged := append([]byte(nil), good...)
			forged[i] = b
			for _, record := range [][]byte{forged, forged[:i], append(forged, b)} {
				if err := area.Store(record); err != nil {
					t.Fatal(err)
				}
				s, _, err := successor(t, l, 0)
				if has := s.session.Load(); err != nil && has != nil || has != nil && has.minor < fp.MinMinorVersion {
					t.Fatalf("%x: %v, session %+v", record, err, has)
				}
			}
		}
	}
}
