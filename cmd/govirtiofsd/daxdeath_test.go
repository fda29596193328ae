package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

const mapUnit = 2 << 20

// mappedFile is a file that clients map. Each of them changes pages of its own.
type mappedFile struct {
	node    uint64
	content []byte // what the file has
}

// mapper is a client that has ranges of the window of its own.
type mapper struct {
	c     *frontend.Client
	files []*mappedFile
	all   int // how many mappers there are
	me    int
	slots []mapperSlot
	rand  *rand.Rand
	count *atomic.Int64 // requests of all
}

type mapperSlot struct {
	at   uint64 // in the window
	file *mappedFile
	off  uint64 // in the file; nothing is mapped if file is nil
}

func (m *mapper) step() error {
	s := &m.slots[m.rand.IntN(len(m.slots))]
	setup := func() error {
		m.count.Add(1)
		return m.c.SetupMapping(s.file.node, ^uint64(0), s.off, mapUnit, s.at, fp.SetupMappingRead|fp.SetupMappingWrite)
	}
	switch n := m.rand.IntN(10); {
	case s.file == nil:
		s.file = m.files[m.rand.IntN(len(m.files))]
		s.off = mapUnit * m.rand.Uint64N((uint64(len(s.file.content))+mapUnit-1)/mapUnit)
		return wrap("setup", setup())
	case n == 0:
		return wrap("setup of what is there", setup())
	case n == 1:
		node := s.file.node
		s.file = nil
		m.count.Add(1)
		return wrap("remove", m.c.RemoveMapping(node, fp.RemoveMappingOne{Moffset: s.at, Len: mapUnit}))
	}
	// A part of a page of its own that the mapping has.
	room := min(uint64(len(s.file.content))-s.off, mapUnit)
	pages := room / 4096
	page := m.rand.Uint64N(pages/uint64(m.all))*uint64(m.all) + uint64(m.me)
	at := page*4096 + m.rand.Uint64N(4000)
	want := s.file.content[s.off+at:][:90]
	if m.rand.IntN(2) == 0 {
		for i := range want {
			want[i] = byte(m.rand.Uint32())
		}
		if _, err := m.c.Window.WriteAt(want, int64(s.at+at)); err != nil {
			return wrap("write to the window", err)
		}
	}
	got := make([]byte, len(want))
	if _, err := m.c.Window.ReadAt(got, int64(s.at+at)); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("the window has %x, want %x: %w", got, want, err)
	}
	return nil
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// killServing kills the worker of a keeper that has a DAX helper, too. It returns 0 if there is none at the
// moment, or the last one still.
func killServing(t *testing.T, keeper, last int) int {
	for _, pid := range daemontest.Children(t, keeper) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && len(b) > 0 && !strings.Contains(string(b), "DAX helper") && pid != last {
			_ = unix.Kill(pid, unix.SIGKILL)
			return pid
		}
	}
	return 0
}

// TestIntegrationDeathWindow kills workers at random moments while clients map files in the DAX window, use
// them there and unmap them. No request fails, a mapping is what it was, and in the end nothing is
// mapped.
func TestIntegrationDeathWindow(t *testing.T) {
	guest.NeedRoot(t)
	kills := howOften(20, 500)
	for name, w := range map[string]frontend.WindowOptions{
		"as QEMU":        {MemReg: true},
		"only mappings":  {},
		"as asked for":   {HonorFlags: true, PastEnd: true},
		"FS_MAP":         {FSMap: vhostuser.FSMapLate},
		"QEMU with time": {MemReg: true, Pending: func() { time.Sleep(2 * time.Millisecond) }},
	} {
		t.Run(name, func(t *testing.T) { deathsWithWindow(t, kills, w) })
	}
}

func deathsWithWindow(t *testing.T, kills int, w frontend.WindowOptions) {
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	seed := randomSeed(t)
	const mappers, files, slots = 4, 4, 4
	contents := make([][]byte, files)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range contents {
		contents[i] = make([]byte, mapUnit*(1+i)+4096*mappers) // a multiple of mapUnit never is
		for j := range contents[i] {
			contents[i][j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(share, fmt.Sprint(i)), contents[i], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	size := uint64(mapUnit * (mappers*slots + 1))
	args := []string{"--shared-dir=" + share, "--socket-path=" + socket, "--tag=t", "--dax=always", fmt.Sprintf("--dax-window-size=%d", size)}
	if w.FSMap != (vhostuser.FSMap{}) {
		w.Size = size
		args = append(args, "--dax-protocol=fs-map")
	}
	d := startDaemon(t, nil, args...)
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: 2, Window: &w})
	if err != nil {
		t.Fatal(err)
	}
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags | frontend.DAXFlags); err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	var stop atomic.Bool
	shared := make([]*mappedFile, files)
	for i := range shared {
		e, err := c.Lookup(1, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		shared[i] = &mappedFile{e.NodeID, contents[i]}
	}
	// One of them has no name any more: it lives as long as it is open.
	held, err := c.Open(shared[0].node, unix.O_RDWR)
	if err == nil {
		err = c.Unlink(1, "0")
	}
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, mappers)
	var all []*mapper
	for i := range mappers {
		m := &mapper{c: c, files: shared, all: mappers, me: i, slots: make([]mapperSlot, slots), rand: rand.New(rand.NewPCG(seed, uint64(i+2))), count: &served}
		for j := range m.slots {
			m.slots[j].at = uint64(i*slots+j) * mapUnit
		}
		all = append(all, m)
		go func() {
			for !stop.Load() {
				if err := m.step(); err != nil {
					stop.Store(true)
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	last := 0
	for killed := 0; killed < kills && !stop.Load(); {
		before := served.Load()
		for end := time.Now().Add(60 * time.Second); served.Load() <= before+2 && !stop.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nothing is served after %d deaths", killed)
			}
		}
		time.Sleep(time.Duration(r.IntN(10_000)) * time.Microsecond)
		if pid := killServing(t, d.cmd.Process.Pid, last); pid != 0 {
			last = pid
			killed++
		}
	}
	stop.Store(true)
	for range mappers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		return
	}
	for _, m := range all {
		for i := range m.slots {
			if s := &m.slots[i]; s.file != nil {
				if err := c.RemoveMapping(s.file.node, fp.RemoveMappingOne{Moffset: s.at, Len: mapUnit}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if b, err := c.Read(shared[0].node, held, 4096, 4096); err != nil || !bytes.Equal(b, contents[0][4096:8192]) {
		t.Errorf("the file without a name has something else, %v", err)
	}
	for i, want := range contents[1:] {
		if got, err := os.ReadFile(filepath.Join(share, fmt.Sprint(i+1))); err != nil || !bytes.Equal(got, want) {
			t.Errorf("file %d is not as it was written in the window, %v", i+1, err)
		}
	}
	window := c.Window
	for end := time.Now().Add(30 * time.Second); len(window.Mappings()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still mapped in the window: %v", window.Mappings())
		}
	}
	c.Close()
	if err := window.Errors(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	d.wantStatus(exitOK)
	wantNoFiles(t, socket)
	t.Logf("%d deaths, %d requests, %d mapped, %d unmapped, %d refused", kills, served.Load(), window.Maps.Load(), window.Unmaps.Load(), window.Refused.Load())
}
