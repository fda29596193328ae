package dax

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/internal/storing"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// A process serves SETUPMAPPING and REMOVEMAPPING and is killed, with SIGKILL, at one of its points: before
// or after a store to memory that a successor reads, or a system call by which the front-end gets or gives
// something. A successor goes on, which may be killed too. All requests succeed, and what is mapped is
// right.

// deathEnv has the share's directory, the point at which the process ends itself, and the numbers of FS_MAP and FS_UNMAP.
const deathEnv = "GOVIRTIOFS_TEST_WINDOW"

// Descriptors of a worker process.
const (
	deathChannel = 3 + iota
	deathLedger
	deathArmed
)

// connectionKeeper is as in the daemon.
type connectionKeeper struct{ *keeper.Client }

func keyOf(d vhostuser.Descriptor) keeper.Key {
	return keeper.Key{Kind: []keeper.Kind{
		vhostuser.DescriptorSocket: keeper.KindConnection, vhostuser.DescriptorRegion: keeper.KindRegion,
		vhostuser.DescriptorKick: keeper.KindKick, vhostuser.DescriptorCall: keeper.KindCall, vhostuser.DescriptorErr: keeper.KindErr,
		vhostuser.DescriptorLog: keeper.KindLog, vhostuser.DescriptorInflight: keeper.KindInflight,
		vhostuser.DescriptorChannel: keeper.KindChannel, vhostuser.DescriptorAnswer: keeper.KindAnswer,
		vhostuser.DescriptorOutbox: keeper.KindOutbox,
	}[d.Kind], ID: d.Number}
}

func (k connectionKeeper) Keep(d vhostuser.Descriptor, fd int) error {
	return k.Client.Keep(keyOf(d), fd)
}
func (k connectionKeeper) Drop(d vhostuser.Descriptor)             { k.Client.Drop(keyOf(d)) }
func (k connectionKeeper) Take(d vhostuser.Descriptor) (int, bool) { return k.Client.Take(keyOf(d)) }

// TestWindowWorker is not a test: it is the process that dies.
func TestWindowWorker(t *testing.T) {
	dir, rest, ok := strings.Cut(os.Getenv(deathEnv), "|")
	if !ok {
		return
	}
	armed, err := unix.Mmap(deathArmed, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	var at, n uint32
	var numbers vhostuser.FSMap
	if _, err := fmt.Sscan(rest, &at, &numbers.Map, &numbers.Unmap); err != nil {
		t.Fatal(err)
	}
	storing.SetHook(func() {
		if atomic.LoadUint32(word(armed)) == 0 {
			return
		}
		atomic.AddUint32(word(armed[4:]), 1)
		if atomic.AddUint32(&n, 1) == at {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	})
	if err := serveWindow(dir, numbers); err != nil {
		t.Fatal(err)
	}
}

// serveWindow is what the daemon does.
func serveWindow(dir string, numbers vhostuser.FSMap) error {
	client := keeper.NewClient(deathChannel)
	start, err := client.Receive(time.Minute)
	if err != nil {
		return err
	}
	l, err := ledger.Open(deathLedger)
	if err != nil {
		return err
	}
	l.Begin()
	cfg := passthrough.Config{Ledger: l, Keeper: client, DAX: &passthrough.DAX{Table: dax.NewTable(windowSize, page), Every: true}}
	if cfg.RootFD, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if cfg.ProcFD, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	fs, err := passthrough.New(cfg)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	s := server.New(fs, server.Options{Ledger: l, Log: log})
	if err := s.Resume(); err != nil {
		return err
	}
	k := connectionKeeper{client}
	d, err := virtiofs.New(s, virtiofs.Options{Tag: "dax", RequestQueues: 2, Window: cfg.DAX.Table, FSMap: numbers, Log: log,
		Recovery: &virtiofs.Recovery{Ledger: l, Keeper: k}})
	if err != nil {
		return err
	}
	fd, _ := client.Take(keeper.Connection())
	f := os.NewFile(uintptr(fd), "connection")
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	_ = f.Close()
	goes := func() {
		l.Serving()
		_ = client.Serving()
	}
	if start.Generation == 1 {
		goes()
		err = d.Serve(context.Background(), conn.(*net.UnixConn))
	} else {
		left := virtiofs.Inherited{Killed: start.Killed, Fail: start.Fail, Goes: goes}
		left.Take = k.Take
		for _, key := range client.Kept() {
			for kind := vhostuser.DescriptorSocket; kind <= vhostuser.DescriptorOutbox; kind++ {
				if d := (vhostuser.Descriptor{Kind: kind, Number: key.ID}); keyOf(d) == key {
					left.Kept = append(left.Kept, d)
				}
			}
		}
		err = d.Resume(context.Background(), conn.(*net.UnixConn), left)
	}
	l.End()
	return err
}

func word(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[0])) }

// mortal is a share whose first worker dies at a point, and whose second one dies at another.
type mortal struct {
	*frontend.Client
	dir    string
	armed  []byte
	deaths atomic.Int64
	ended  chan keeper.Outcome
}

func startMortal(t *testing.T, w frontend.WindowOptions, points [2]int) *mortal {
	m := &mortal{dir: t.TempDir(), ended: make(chan keeper.Outcome, 1)}
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(m.dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte('a' + i)}, 4*page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("armed", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, 4096)
	}
	if err == nil {
		m.armed, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := func(fd int) *os.File {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		return os.NewFile(uintptr(own), "")
	}
	start := func(launch keeper.Launch) (*os.Process, error) {
		point := 0
		if launch.Generation <= 2 {
			point = points[launch.Generation-1]
		}
		if launch.Generation > 1 {
			m.deaths.Add(1)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestWindowWorker$", "-test.count=1")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d %d %d", deathEnv, m.dir, point, w.FSMap.Map, w.FSMap.Unmap))
		ledgerFile, armedFile := file(l.FD()), file(fd)
		defer ledgerFile.Close()
		defer armedFile.Close()
		cmd.ExtraFiles = []*os.File{launch.Channel, ledgerFile, armedFile}
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		return cmd.Process, nil
	}
	k := keeper.New(keeper.Options{Start: func(l keeper.Launch) (*os.Process, error) { return start(l) }, Recover: true, Ended: l.Ended,
		Limit: 1000, EndGrace: time.Minute, Log: slog.New(slog.DiscardHandler)})
	back, front := socketpair.New(t)
	f, err := back.File()
	if err != nil {
		t.Fatal(err)
	}
	own, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_, _ = f.Close(), back.Close()
	if err == nil {
		err = k.Hold(keeper.Connection(), own)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { m.ended <- k.Run(make(chan os.Signal)) }()
	driver, err := frontend.New(front, frontend.Options{Window: &w, Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	m.Client = frontend.NewClient(driver)
	if err := m.Handshake(frontend.AllFlags | frontend.DAXFlags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		window := m.Window
		m.Close()
		select {
		case out := <-m.ended:
			if out.State == nil || !out.State.Success() {
				t.Errorf("the last worker ends with %v, %v", out.State, out.Err)
			}
		case <-time.After(time.Minute):
			t.Error("the keeper does not end")
		}
		if err := window.Errors(); err != nil {
			t.Errorf("front-end: %v", err)
		}
		_ = l.Close()
		_ = unix.Munmap(m.armed)
		_ = unix.Close(fd)
	})
	return m
}

// play maps and unmaps. Every request has to succeed.
func (m *mortal) play() error {
	var nodes []uint64
	for i := range 3 {
		e, err := m.Lookup(1, fmt.Sprint(i))
		if err != nil {
			return err
		}
		nodes = append(nodes, e.NodeID)
	}
	atomic.StoreUint32(word(m.armed), 1)
	defer atomic.StoreUint32(word(m.armed), 0)
	setup := func(file, slot int) error {
		return m.SetupMapping(nodes[file], ^uint64(0), 2*page, 2*page, uint64(slot)*2*page, fp.SetupMappingRead|fp.SetupMappingWrite)
	}
	part := func(slot int) fp.RemoveMappingOne {
		return fp.RemoveMappingOne{Moffset: uint64(slot) * 2 * page, Len: 2 * page}
	}
	look := func(slot int, want byte) error {
		b := make([]byte, 10)
		if _, err := m.Window.ReadAt(b, int64(slot)*2*page+page); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{want}, 10)) {
			return fmt.Errorf("slot %d has %q, want %q: %w", slot, b, want, err)
		}
		return nil
	}
	for _, step := range []func() error{
		func() error { return setup(0, 0) },
		func() error { return errors.Join(look(0, 'a'), setup(1, 1)) },
		func() error { return errors.Join(look(0, 'a'), look(1, 'b'), m.RemoveMapping(nodes[0], part(0))) },
		func() error { return errors.Join(look(1, 'b'), setup(2, 0)) },
		func() error { return errors.Join(look(0, 'c'), look(1, 'b'), setup(1, 1), setup(1, 2)) }, // one file twice
		func() error {
			_, err := m.Window.WriteAt([]byte("new"), 2*page*2+page)
			return errors.Join(err, look(0, 'c'), m.RemoveMapping(nodes[1], part(0), part(1), part(2)))
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	for end := time.Now().Add(time.Minute); len(m.Window.Mappings()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("still mapped: %v", m.Window.Mappings())
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.dir, "1")); err != nil || !bytes.HasPrefix(b[3*page:], []byte("newb")) {
		return fmt.Errorf("what was written in the window is lost, %w", err)
	}
	return nil
}

// TestDeaths kills the process at points of mappings, and at some of them its successor, too.
func TestDeaths(t *testing.T) {
	few := 40 // of some 200
	if os.Getenv("GOVIRTIOFS_DEATHS") == "all" {
		few = 1 << 20
	}
	for name, w := range map[string]frontend.WindowOptions{
		"as QEMU":       {MemReg: true},
		"only mappings": {},
		"FS_MAP":        {FSMap: vhostuser.FSMapEarly, Size: windowSize},
	} {
		var points int
		t.Run(name, func(t *testing.T) {
			m := startMortal(t, w, [2]int{})
			if err := m.play(); err != nil {
				t.Fatal(err)
			}
			if points = int(atomic.LoadUint32(word(m.armed[4:]))); points < 100 || m.deaths.Load() > 0 {
				t.Fatalf("there are only %d points, and %d deaths", points, m.deaths.Load())
			}
		})
		tried := rand.Perm(points)
		for i, point := range tried[:min(few, len(tried))] {
			second := 0
			if i%2 == 0 {
				second = 1 + rand.IntN(80)
			}
			t.Run(fmt.Sprintf("%s,%d,%d", name, point+1, second), func(t *testing.T) {
				t.Parallel()
				if err := startMortal(t, w, [2]int{point + 1, second}).play(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
