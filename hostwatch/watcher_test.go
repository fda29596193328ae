package hostwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func newWatcher(t testing.TB, o Options) *Watcher {
	t.Helper()
	w, err := New(o)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// shell makes changes in another process: this one's are left out.
func shell(t testing.TB, dir, script string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}

// until reads events until one has the name, which ends a test.
func until(t testing.TB, w *Watcher, name string) []string {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { _ = w.Close() })
	defer timer.Stop()
	var got []string
	for {
		list, err := w.Read(nil)
		if err != nil {
			t.Fatalf("%v; so far %q", err, got)
		}
		for _, e := range list {
			if e.Name == name {
				return got
			}
			got = append(got, fmt.Sprintf("%v %d/%s %d/%s %v", e.Op, e.Dir, e.Name, e.NewDir, e.NewName, e.IsDir))
		}
	}
}

// both runs a test with fanotify and with inotify.
func both(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("fanotify", func(t *testing.T) { test(t, Options{}) })
	t.Run("inotify", func(t *testing.T) { test(t, Options{Inotify: true}) })
}

func TestEvents(t *testing.T) { both(t, testEvents) }

func testEvents(t *testing.T, o Options) {
	w := newWatcher(t, o)
	root := t.TempDir()
	for i, d := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if d != "c" {
			if err := w.Add(open(t, filepath.Join(root, d)), uint64(i+1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(root, "a", "own"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	shell(t, root, `mkdir a/d; chmod 700 a/d; rmdir a/d; mv a/own a/own2; mv a/own2 b/there; mv b/there c/; mv c/there a/back; echo x >>a/back; rm a/back; chmod 700 a; : >a/end`)
	got := until(t, w, "end")
	want := []string{
		"created, removed, attributes 1/d 0/ true",
		"moved 1/own 1/own2 false",
		"moved 1/own2 2/there false",
		"moved 2/there 0/ false",
		"moved 0/ 1/back false",
		"removed, modified, written 1/back 0/ false",
		"attributes 1/ 0/ true",
	}
	// What the kernel puts together depends on how fast it is read.
	if len(got) < len(want) || !slices.Contains(got, want[1]) || !slices.Contains(got, want[2]) || !slices.Contains(got, want[3]) || !slices.Contains(got, want[4]) {
		t.Errorf("got %q, want %q", got, want)
	}
	if told := slices.Contains(got, "created 1/own 0/ false"); told != w.TellsOwn() {
		t.Errorf("a change of this process: %q", got)
	}
}

// TestRemove: a directory that is not watched any more says nothing, and makes room.
func TestRemove(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		testRemove(t, o, true)
		if o.Inotify {
			testRemove(t, o, false)
		}
	})
}

func testRemove(t *testing.T, o Options, byFD bool) {
	o.Max = 2
	w := newWatcher(t, o)
	root := t.TempDir()
	fds := map[string]int{}
	for _, d := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o777); err != nil {
			t.Fatal(err)
		}
		fds[d] = open(t, filepath.Join(root, d))
	}
	for i, d := range []string{"a", "b"} {
		if err := w.Add(fds[d], uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(fds["c"], 3); !errors.Is(err, ErrFull) {
		t.Errorf("a third of two: %v", err)
	}
	if byFD {
		w.Remove(fds["a"], 1)
	} else {
		w.Remove(-1, 1)
	}
	if err := w.Add(fds["c"], 3); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(fds["c"], 4); err != nil { // the same directory has a new number
		t.Fatal(err)
	}
	shell(t, root, ": >a/x; : >c/y; : >b/end")
	for _, e := range until(t, w, "end") {
		if e != "created 4/y 0/ false" && e != "written 4/y 0/ false" && e != "created, written 4/y 0/ false" {
			t.Errorf("got %q", e)
		}
	}
	if w.Len() != 2 {
		t.Errorf("%d directories, want 2", w.Len())
	}
}

// TestOverflow: events that are lost are told of.
func TestOverflow(t *testing.T) { both(t, testOverflow) }

func testOverflow(t *testing.T, o Options) {
	w := newWatcher(t, o)
	root := t.TempDir()
	if err := w.Add(open(t, root), 1); err != nil {
		t.Fatal(err)
	}
	limit := "/proc/sys/fs/fanotify/max_queued_events"
	if o.Inotify {
		limit = "/proc/sys/fs/inotify/max_queued_events"
	}
	most, err := os.ReadFile(limit)
	if err != nil {
		t.Skip(err)
	}
	var n int
	if _, err := fmt.Sscan(string(most), &n); err != nil || n > 100_000 {
		t.Skipf("a queue of %d events: %v", n, err)
	}
	shell(t, root, fmt.Sprintf("seq -f 'n%%.0f' %d | xargs touch", n+1000))
	timer := time.AfterFunc(time.Minute, func() { _ = w.Close() })
	defer timer.Stop()
	for {
		list, err := w.Read(nil)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(list, Event{Op: Overflow}) {
			return
		}
	}
}

// TestStale: what the kernel keeps of directories that are gone is noticed when it is more than there may be.
func TestStale(t *testing.T) {
	const most = 4
	w := newWatcher(t, Options{Max: most})
	root := t.TempDir()
	for i := range most + 1 {
		d := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if w.Stale() {
			t.Errorf("stale after %d directories", i)
		}
		if err := w.Add(open(t, d), uint64(i+1)); err != nil {
			t.Fatal(err)
		}
		w.Remove(-1, uint64(i+1))
		w.Remove(-1, uint64(i+1)) // again is nothing
	}
	if !w.Stale() {
		t.Errorf("not stale after %d directories", most+1)
	}
}

func TestRefused(t *testing.T) { both(t, testRefused) }

func testRefused(t *testing.T, o Options) {
	w := newWatcher(t, o)
	if err := w.Add(open(t, "/dev/null"), 1); err == nil {
		t.Error("a file is watched")
	}
	if err := w.Add(-1, 1); err == nil {
		t.Error("descriptor -1 is watched")
	}
	if w.Len() != 0 {
		t.Errorf("%d directories", w.Len())
	}
}

// FuzzParse: whatever is read makes no access out of bounds.
func FuzzParse(f *testing.F) {
	event := make([]byte, metadataSize+fidSize+8)
	binary.NativeEndian.PutUint32(event, uint32(len(event)))
	binary.NativeEndian.PutUint16(event[6:], uint16(metadataSize))
	binary.NativeEndian.PutUint64(event[8:], unix.FAN_CREATE)
	event[metadataSize] = unix.FAN_EVENT_INFO_TYPE_DFID_NAME
	event[metadataSize+2] = fidSize + 8
	f.Add(event)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &Watcher{own: 1, byFH: map[string]uint64{string(make([]byte, 12)): 1}}
		for _, e := range w.parse(b, nil) {
			if e.Op == 0 || e.Op != Overflow && e.Dir == 0 && e.NewDir == 0 {
				t.Errorf("event %+v", e)
			}
		}
	})
}
