package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cutter stands in the place of a VMM: it passes connections on, and can cut them.
type cutter struct {
	to   string
	mu   sync.Mutex
	live map[net.Conn]bool
	cuts int
}

func (c *cutter) serve(l net.Listener) {
	for {
		a, err := l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", c.to)
		if err != nil {
			_ = a.Close()
			continue
		}
		c.mu.Lock()
		c.live[a], c.live[b] = true, true
		c.mu.Unlock()
		for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(p[0], p[1])
				_ = p[0].Close()
				_ = p[1].Close()
				c.mu.Lock()
				delete(c.live, p[0])
				c.mu.Unlock()
			}()
		}
	}
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.live {
		if rand.IntN(3) > 0 {
			_ = conn.Close()
		}
	}
	c.cuts++
}

// model is what a directory has to contain: files with their content, directories, and
// symbolic links with their target.
type model struct {
	Files map[string]string
	Dirs  map[string]bool
	Links map[string]string
}

// worker changes one directory, and knows what must be in it. An operation that is done twice, or
// is lost, fails at once or shows in the end.
type worker struct {
	root  string
	r     *rand.Rand
	m     model
	names int
	big   []byte
}

func newWorker(root string, seed uint64) (*worker, error) {
	w := &worker{root: root, r: rand.New(rand.NewPCG(seed, 1)), big: make([]byte, 300<<10),
		m: model{Files: map[string]string{}, Dirs: map[string]bool{}, Links: map[string]string{}}}
	return w, os.Mkdir(root, 0o755)
}

func (w *worker) path(name string) string { return filepath.Join(w.root, name) }

func (w *worker) fresh() string {
	w.names++
	return fmt.Sprintf("n%d", w.names)
}

// one is any key of a map, in no special order; "" if there is none.
func one[V any](m map[string]V) string {
	for k := range m {
		return k
	}
	return ""
}

// step does one operation.
func (w *worker) step() error {
	file, dir, link := one(w.m.Files), one(w.m.Dirs), one(w.m.Links)
	switch n := w.r.IntN(12); {
	case n <= 1 || file == "":
		return w.create(w.fresh())
	case n <= 3:
		return w.append(file)
	case n == 4:
		return w.rename(file, w.fresh())
	case n == 5 && len(w.m.Files) > 1:
		return w.overwrite(file)
	case n == 6:
		delete(w.m.Files, file)
		return os.Remove(w.path(file))
	case n == 7:
		d := w.fresh()
		w.m.Dirs[d] = true
		return os.Mkdir(w.path(d), 0o700)
	case n == 8 && dir != "":
		delete(w.m.Dirs, dir)
		return unix.Rmdir(w.path(dir))
	case n == 9:
		l := w.fresh()
		w.m.Links[l] = file
		return os.Symlink(file, w.path(l))
	case n == 10 && link != "":
		delete(w.m.Links, link)
		return os.Remove(w.path(link))
	}
	return w.check(file)
}

func (w *worker) text() string {
	n := w.r.IntN(300)
	if w.r.IntN(8) == 0 {
		n = w.r.IntN(len(w.big))
	}
	for i := range w.big[:n] {
		w.big[i] = byte('a' + w.r.IntN(26))
	}
	return string(w.big[:n])
}

func (w *worker) create(name string) error {
	f, err := os.OpenFile(w.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s := w.text()
	_, err = f.WriteString(s)
	w.m.Files[name] = s
	return errors.Join(err, f.Close())
}

func (w *worker) append(name string) error {
	f, err := os.OpenFile(w.path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	s := w.text()
	_, err = f.WriteString(s)
	w.m.Files[name] += s
	return errors.Join(err, f.Close())
}

func (w *worker) rename(from, to string) error {
	w.m.Files[to] = w.m.Files[from]
	delete(w.m.Files, from)
	return unix.Renameat2(unix.AT_FDCWD, w.path(from), unix.AT_FDCWD, w.path(to), unix.RENAME_NOREPLACE)
}

func (w *worker) overwrite(from string) error {
	for to := range w.m.Files {
		if to != from {
			w.m.Files[to] = w.m.Files[from]
			delete(w.m.Files, from)
			return os.Rename(w.path(from), w.path(to))
		}
	}
	return nil
}

// check reads a file past the cache.
func (w *worker) check(name string) error {
	f, err := os.Open(w.path(name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	b, err := io.ReadAll(f)
	if err == nil && string(b) != w.m.Files[name] {
		err = fmt.Errorf("%s has %d bytes that are not the %d it must have", name, len(b), len(w.m.Files[name]))
	}
	return err
}

// modelWorkload changes a mounted directory from several threads until its standard input ends. It
// says how many operations it has done, and leaves what must be in the directory in a file.
func modelWorkload(command string) error {
	var o struct{ Mount, Dir, Result string }
	if err := json.Unmarshal([]byte(command), &o); err != nil {
		return err
	}
	if err := shellIn(o.Mount); err != nil {
		return err
	}
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	var done atomic.Int64
	const workers = 4
	models, errs := make([]model, workers), make(chan error, workers)
	for i := range workers {
		w, err := newWorker(filepath.Join(o.Dir, fmt.Sprint(i)), uint64(i))
		if err != nil {
			return err
		}
		go func() {
			var err error
			for err == nil && !stop.Load() {
				if err = w.step(); err != nil {
					err = fmt.Errorf("operation %d: %w", done.Load(), err)
				}
				done.Add(1)
			}
			models[i] = w.m
			errs <- err
		}()
	}
	out := bufio.NewWriter(os.Stdout)
	for left := workers; left > 0; {
		select {
		case err := <-errs:
			if err != nil {
				return err
			}
			left--
		case <-time.After(20 * time.Millisecond):
			fmt.Fprintln(out, done.Load())
			_ = out.Flush()
		}
	}
	for i := range models {
		var got model
		if err := readModel(filepath.Join(o.Dir, fmt.Sprint(i)), &got); err != nil {
			return err
		}
		if err := same(got, models[i]); err != nil {
			return fmt.Errorf("in the guest: %w", err)
		}
	}
	if err := shellIn("umount " + o.Dir); err != nil {
		return err
	}
	b, err := json.Marshal(models)
	if err != nil {
		return err
	}
	return os.WriteFile(o.Result, b, 0o600)
}

// readModel reads what is in a directory.
func readModel(dir string, m *model) error {
	*m = model{Files: map[string]string{}, Dirs: map[string]bool{}, Links: map[string]string{}}
	list, err := os.ReadDir(dir)
	for _, e := range list {
		switch path := filepath.Join(dir, e.Name()); e.Type() {
		case fs.ModeDir:
			m.Dirs[e.Name()] = true
		case fs.ModeSymlink:
			m.Links[e.Name()], err = os.Readlink(path)
		default:
			var b []byte
			b, err = os.ReadFile(path)
			m.Files[e.Name()] = string(b)
		}
		if err != nil {
			return err
		}
	}
	return err
}

func same(got, want model) error {
	if len(got.Files) != len(want.Files) || len(got.Dirs) != len(want.Dirs) || len(got.Links) != len(want.Links) {
		return fmt.Errorf("%d files, %d directories, %d links, want %d, %d, %d",
			len(got.Files), len(got.Dirs), len(got.Links), len(want.Files), len(want.Dirs), len(want.Links))
	}
	for name, text := range want.Files {
		if g, ok := got.Files[name]; !ok || g != text {
			return fmt.Errorf("%s has %d bytes (%v), want %d others", name, len(g), ok, len(text))
		}
	}
	for name := range want.Dirs {
		if !got.Dirs[name] {
			return fmt.Errorf("no directory %s", name)
		}
	}
	for name, to := range want.Links {
		if got.Links[name] != to {
			return fmt.Errorf("link %s to %q, want %q", name, got.Links[name], to)
		}
	}
	return nil
}

// TestIntegrationCut: the connections are cut 100 times while four threads create, append,
// rename and remove. Each operation has the result that it must have, and the trees are as a model
// of them in the guest and on the host.
func TestIntegrationCut(t *testing.T) {
	h := newHost(t)
	front, result := filepath.Join(h.dir, "front"), filepath.Join(h.dir, "result")
	l, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := &cutter{to: h.socket, live: map[net.Conn]bool{}}
	go c.serve(l)
	command, err := json.Marshal(map[string]string{"Dir": h.mnt(), "Result": result,
		"Mount": fmt.Sprintf("%s mount -o channels=3,token=%s unix:%s %s", guestProgram, h.token, front, h.mnt())})
	if err != nil {
		t.Fatal(err)
	}
	p := startInner(t, "model", string(command))
	progress := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const cuts = 100
	total := 0
	for c.cuts < cuts {
		before := progress()
		for total = before; total < before+10; total = progress() {
		}
		c.cut()
	}
	p.end()
	checkModels(t, h, result)
	t.Logf("about %d operations, %d cuts", total, c.cuts)
	h.stop()
}

// TestIntegrationRestart: the daemon is restarted 5 times while four threads create, append, rename and
// remove. With a file for its state the guest only waits.
func TestIntegrationRestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	h := newHost(t, "--vsock-state", state)
	result := filepath.Join(h.dir, "result")
	command, err := json.Marshal(map[string]string{"Dir": h.mnt(), "Result": result,
		"Mount": fmt.Sprintf("%s mount -o channels=2,token=%s unix:%s %s", guestProgram, h.token, h.socket, h.mnt())})
	if err != nil {
		t.Fatal(err)
	}
	p := startInner(t, "model", string(command))
	progress := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 5 {
		for before := progress(); progress() < before+100; {
		}
		h.stop()
		if !strings.Contains(h.log.String(), "is saved") {
			t.Fatalf("the session is not saved:\n%s", h.log)
		}
		h.start("--vsock-state", state)
	}
	for before := progress(); progress() < before+100; {
	}
	p.end()
	checkModels(t, h, result)
	h.stop()
	if st, err := os.Stat(state); err != nil || st.Size() != 0 {
		t.Errorf("a session that has ended is saved: %v, %v", st, err)
	}
}

// checkModels compares what is on the host with what a guest has left.
func checkModels(t *testing.T, h *host, result string) {
	t.Helper()
	b, err := os.ReadFile(result)
	var models []model
	if err == nil {
		err = json.Unmarshal(b, &models)
	}
	if err != nil || len(models) == 0 {
		t.Fatalf("%v, %d models\n%s", err, len(models), h.log)
	}
	for i := range models {
		var got model
		if err := readModel(filepath.Join(h.share, fmt.Sprint(i)), &got); err != nil {
			t.Fatal(err)
		}
		if err := same(got, models[i]); err != nil {
			t.Errorf("on the host: %v", err)
		}
	}
}
