package passthrough

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// TestStateLimits: as much as a limit says is taken, and one more is refused, by the one
// who saves as well.
func TestStateLimits(t *testing.T) {
	small := stateLimits{nodes: 100, openFiles: 100, locks: 100, doubles: 100}
	for what, c := range map[string]struct {
		limit func(*stateLimits) *int
		add   func(f *forger, i int)
	}{
		"nodes": {func(l *stateLimits) *int { return &l.nodes }, func(f *forger, i int) {
			f.node(0, unix.S_IFREG, locatedNowhere, "", nil)
		}},
		"number of a node": {func(l *stateLimits) *int { return &l.nodes }, func(f *forger, i int) {
			f.node(uint64(2+i), unix.S_IFREG, locatedByPath, fmt.Sprint(i), nil)
		}},
		"open files": {func(l *stateLimits) *int { return &l.openFiles }, func(f *forger, i int) { f.open(0, 0, 0) }},
		"number of an open file": {func(l *stateLimits) *int { return &l.openFiles }, func(f *forger, i int) {
			f.open(uint64(2+i), 0, unix.O_DIRECTORY)
		}},
		"locks": {func(l *stateLimits) *int { return &l.locks }, func(f *forger, i int) {
			f.w.Uint(stateLock, 0, 1, 0, uint64(2*i), uint64(2*i))
		}},
		"flock locks": {func(l *stateLimits) *int { return &l.locks }, func(f *forger, i int) { f.w.Uint(stateFlock, 77, flockShared) }},
		"doubles": {func(l *stateLimits) *int { return &l.doubles }, func(f *forger, i int) {
			f.node(uint64(2+i), unix.S_IFREG, locatedByPath, "one file", nil)
		}},
	} {
		const limit = 10
		for _, count := range []int{limit, limit + 1, limit + 2} {
			g := newShare(t, func(c *Config) { c.Migration.GuestErrors = true }, 0).guest()
			g.fs.limits = small
			*c.limit(&g.fs.limits) = limit
			for i := range count {
				g.write(fmt.Sprint(i), "")
			}
			g.write("one file", "")
			f := forge(handlesAbsent)
			for i := range count {
				if what == "open files" {
					f.w.Uint(stateNode, 0, 0, unix.S_IFREG, locatedNowhere)
					f.w.Bytes(nil)
					f.open(uint64(i), uint64(i+1), 0)
					continue
				}
				c.add(f, i)
			}
			f.w.Uint(stateEnd, 0, 0, 0, 0)
			_ = f.w.Flush()
			most := limit
			switch what {
			case "number of a node", "number of an open file":
				most = limit - 2 // numbers begin with 2 here, and end before the limit
			case "doubles":
				most = limit + 1 // the first one is none
			}
			if err := g.load(f.b.Bytes()); (err == nil) != (count <= most) {
				t.Errorf("%d %s, limit %d: %v", count, what, limit, err)
			}
			g.fs.Destroy()
		}
	}
	// An end that is beyond the limits.
	for _, end := range [][4]uint64{{101, 0, 0, 0}, {0, 1 << 32, 0, 0}, {0, 0, 101, 0}, {0, 0, 0, 1 << 32}, {math.MaxUint64, 0, 0, 0}} {
		g := newShare(t, nil, 0).guest()
		g.fs.limits = small
		f := forge(handlesAbsent)
		f.w.Uint(stateEnd)
		f.w.Uint(end[:]...)
		_ = f.w.Flush()
		if g.load(f.b.Bytes()) == nil {
			t.Errorf("end %v is taken", end)
		}
	}
}

// TestSaveTooLarge: a guest that has more than a state may have can't move, and hears of
// it where it is.
func TestSaveTooLarge(t *testing.T) {
	v := newLocker(t)
	for what, limit := range map[string]func(*stateLimits) *int{
		"nodes": func(l *stateLimits) *int { return &l.nodes }, "open files": func(l *stateLimits) *int { return &l.openFiles },
		"locks": func(l *stateLimits) *int { return &l.locks },
	} {
		v.fs.limits = defaultStateLimits
		*limit(&v.fs.limits) = 1
		err := v.fs.SaveState(&v.thread, record.NewWriter(io.Discard))
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	v.fs.limits = defaultStateLimits
	if err := v.fs.SaveState(&v.thread, record.NewWriter(io.Discard)); err != nil {
		t.Error(err)
	}
}

// atEnd calls f when everything was read.
type atEnd struct {
	io.Reader
	f func()
}

func (r *atEnd) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if errors.Is(err, io.EOF) && r.f != nil {
		r.f()
		r.f = nil
	}
	return n, err
}

// TestLoadMemory: nodes whose files are not here take next to nothing, and a million nodes
// of one file take what one takes and 8 bytes each.
func TestLoadMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's allocator is another")
	}
	const records = 300_000
	for what, add := range map[string]func(f *forger, i uint64){
		"not here": func(f *forger, i uint64) { f.node(i<<12%(1<<24)|i>>12+2, unix.S_IFREG, locatedNowhere, "", nil) },
		"in one that is not here": func(f *forger, i uint64) {
			if f.nodes == 0 {
				f.node(2, unix.S_IFDIR, locatedNowhere, "", nil)
			}
			f.child(i+3, unix.S_IFREG, 1, "file", nil)
		},
		"without a number": func(f *forger, i uint64) { f.node(0, unix.S_IFREG, locatedByPath, "file", nil) },
		"doubles": func(f *forger, i uint64) {
			f.node(i+2, unix.S_IFREG, locatedByPath, "file", nil)
		},
	} {
		g := newShare(t, func(c *Config) { c.Migration.GuestErrors = true }, 0).guest()
		g.fs.limits.doubles = 1000
		g.write("file", "")
		f := forge(handlesAbsent)
		for i := range uint64(records) {
			add(f, i)
		}
		_ = f.w.Flush() // no end: the memory is looked at when there is nothing more to read
		before, most := heapBytes(), uint64(0)
		r := &atEnd{Reader: bytes.NewReader(f.b.Bytes()), f: func() { most = heapBytes() }}
		_, err := g.fs.LoadState(&g.thread, record.NewReader(r, math.MaxInt64))
		if err == nil {
			t.Errorf("%s: a state without an end is taken", what)
		}
		if what == "doubles" {
			if most = heapBytes(); !strings.Contains(err.Error(), "another node") {
				t.Error(err)
			}
		}
		if taken := int64(most) - int64(before); taken > 3*8*records {
			t.Errorf("%s: %d records in %d bytes take %d bytes", what, records, f.b.Len(), taken)
		}
		g.fs.Destroy()
	}
}

// TestForgedNumbers: numbers that no daemon gives out.
func TestForgedNumbers(t *testing.T) {
	for what, add := range map[string]func(f *forger){
		"the root's": func(f *forger) { f.child(fp.RootID, unix.S_IFREG, 0, "file", nil) },
		"the root's without a lookup": func(f *forger) {
			f.w.Uint(stateNode, fp.RootID, 0, unix.S_IFREG, locatedByPath)
			f.w.Bytes([]byte("file"))
			f.w.Bytes(nil)
			f.open(5, 1, 0)
		},
		"one without a lookup": func(f *forger) {
			f.w.Uint(stateNode, 7, 0, unix.S_IFREG, locatedByPath)
			f.w.Bytes([]byte("file"))
			f.w.Bytes(nil)
		},
		"slot 0":           func(f *forger) { f.child(1<<32, unix.S_IFREG, 0, "file", nil) },
		"beyond the table": func(f *forger) { f.child(1<<24, unix.S_IFREG, 0, "file", nil) },
		"one twice": func(f *forger) {
			f.child(7, unix.S_IFREG, 0, "file", nil)
			f.child(7, unix.S_IFREG, 0, "other", nil)
		},
		"too many lookups": func(f *forger) {
			f.w.Uint(stateNode, 7, math.MaxUint64, unix.S_IFREG, locatedByPath)
			f.w.Bytes([]byte("file"))
			f.w.Bytes(nil)
		},
		"a parent that comes later": func(f *forger) { f.child(7, unix.S_IFREG, 1, "file", nil) },
		"an open file's node later": func(f *forger) { f.open(5, 1, 0) },
		"flags of 33 bits": func(f *forger) {
			f.w.Uint(stateOpenFile, 5, f.child(7, unix.S_IFREG, 0, "file", nil), 1<<32)
		},
		"an open file's slot 0": func(f *forger) { f.open(1<<32, f.child(7, unix.S_IFREG, 0, "file", nil), 0) },
	} {
		g := newShare(t, func(c *Config) { c.Migration.GuestErrors = true }, 0).guest()
		g.write("file", "")
		g.write("other", "")
		f := forge(handlesAbsent)
		add(f)
		if err := g.load(f.end()); err == nil {
			t.Errorf("%s is taken", what)
		}
		g.fs.Destroy()
		if fds := g.fs.fds.used.Load(); fds != 1 {
			t.Errorf("%s: %d descriptors are left", what, fds-1)
		}
		if err := os.Remove(g.path("file")); err != nil {
			t.Error(err)
		}
	}
	// A state of a guest with a DAX window is refused: it believes that files are mapped.
	g := newShare(t, nil, 0).guest()
	g.fs.features.flags.Store(uint64(fp.InitMapAlignment))
	if err := g.load(forge(handlesAbsent).end()); err == nil {
		t.Error("a guest with a window is taken")
	}
	g.fs.features.flags.Store(0)
}
