package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// openAgain is open for a share that keeps its guest's session for the time
// wait.
func openAgain(t *testing.T, opts frontend.Options, wait time.Duration) *share {
	t.Helper()
	s := &share{dir: t.TempDir()}
	s.device, s.server = newDeviceWith(t, s.dir, defaults(), virtiofs.Options{RequestQueues: max(opts.Queues, 1), Reconnect: wait},
		func(fs server.FileSystem) server.FileSystem { return fs })
	f, done := connect(t, s.device, opts)
	s.Client, s.done = frontend.NewClient(f), done
	if err := s.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

// cut ends the connection while the guest runs on.
func (s *share) cut(t *testing.T) {
	t.Helper()
	s.Cut()
	select {
	case <-s.done:
	case <-time.After(60 * time.Second):
		t.Fatal("the device does not notice that the front-end has gone")
	}
}

// reconnect brings the guest back.
func (s *share) reconnect(t *testing.T) {
	t.Helper()
	a, b := socketpair.New(t)
	go func() { s.done <- s.device.Serve(context.Background(), a) }()
	if err := s.Reconnect(b); err != nil {
		t.Fatal(err)
	}
}

// forEachReconnect runs a test with front-ends that reconnect: as QEMU's devices start, and as cloud-hypervisor
// does all of it, with its area.
func forEachReconnect(t *testing.T, test func(t *testing.T, opts frontend.Options)) {
	for name, opts := range map[string]frontend.Options{
		"with area":        {Inflight: true},
		"cloud-hypervisor": {CloudHypervisor: true},
		"without area":     {},
		"no event idx":     {NoEventIdx: true},
	} {
		t.Run(name, func(t *testing.T) { test(t, opts) })
	}
}

// TestReconnect cuts the connection at random moments while all queues are busy. The guest
// notices nothing: each request is answered once, as a model says, and in the end the files are
// those of the model.
func TestReconnect(t *testing.T) {
	const actors, cuts = 6, 40
	forEachReconnect(t, func(t *testing.T, opts frontend.Options) {
		for _, opts.Queues = range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%d queues", opts.Queues), func(t *testing.T) {
				opts.Data = 64 << 10
				s := openAgain(t, opts, time.Minute)
				stop := make(chan struct{})
				var running sync.WaitGroup
				all := make([]*actor, actors)
				for i := range all {
					name := fmt.Sprintf("actor%d", i)
					dir, err := s.Mkdir(fp.RootID, name, 0o755)
					if err != nil {
						t.Fatal(err)
					}
					all[i] = &actor{s: s, name: name, dir: dir.NodeID, r: rand.New(rand.NewPCG(uint64(i), uint64(opts.Queues))), files: map[string]*modelFile{}}
					running.Go(func() {
						for all[i].err == nil {
							select {
							case <-stop:
								return
							default:
								all[i].step()
							}
						}
					})
				}
				r := rand.New(rand.NewPCG(99, 1))
				for range cuts {
					time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
					s.cut(t)
					time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
					s.reconnect(t)
				}
				close(stop)
				running.Wait()
				steps := 0
				for _, a := range all {
					a.check(t)
					steps += a.steps
				}
				if steps < cuts {
					t.Errorf("%d steps between %d cuts: nothing was under way", steps, cuts)
				}
				t.Logf("%d steps, %d cuts", steps, cuts)
			})
		}
	})
}

// actor is a program in the guest with a directory of its own. It knows what must be in
// it.
type actor struct {
	s     *share
	name  string
	dir   uint64
	r     *rand.Rand
	files map[string]*modelFile
	steps int
	err   error // the first reply that the model does not allow
}

// modelFile is a file that the actor has open.
type modelFile struct {
	node, fh uint64
	data     []byte
}

// want notes a reply that is wrong.
func (a *actor) want(what string, got error, want unix.Errno) {
	if want == 0 && got != nil || want != 0 && !errors.Is(got, want) {
		if a.err == nil {
			a.err = fmt.Errorf("step %d: %s: %v, want %v", a.steps, what, got, want)
		}
	}
}

// step makes one operation whose result shows whether it was executed once,
// twice or not at all.
func (a *actor) step() {
	a.steps++
	name := fmt.Sprintf("f%d", a.r.IntN(6))
	f := a.files[name]
	switch k := a.r.IntN(7); {
	case k == 0 || f == nil:
		out, err := a.s.Create(a.dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
		if f != nil {
			a.want("CREATE of "+name, err, unix.EEXIST)
			return
		}
		a.want("CREATE of "+name, err, 0)
		if err == nil {
			a.files[name] = &modelFile{node: out.Entry.NodeID, fh: out.Open.Fh}
		}
	case k == 1:
		a.want("UNLINK of "+name, a.s.Unlink(a.dir, name), 0)
		a.want("UNLINK of "+name+", which is gone", a.s.Unlink(a.dir, name), unix.ENOENT)
		a.want("RELEASE", a.s.Release(f.node, f.fh), 0)
		delete(a.files, name)
	case k == 2:
		to := fmt.Sprintf("f%d", a.r.IntN(6))
		other := a.files[to]
		err := a.s.Rename(a.dir, name, a.dir, to, unix.RENAME_NOREPLACE)
		if other != nil {
			a.want("RENAME of "+name+" to "+to, err, unix.EEXIST)
			return
		}
		a.want("RENAME of "+name+" to "+to, err, 0)
		a.files[to] = f
		delete(a.files, name)
	case k == 3:
		_, err := a.s.Mkdir(a.dir, "d", 0o755)
		a.want("MKDIR", err, 0)
		a.want("RMDIR", a.s.Rmdir(a.dir, "d"), 0)
	case k == 4:
		got, err := a.s.Read(f.node, f.fh, 0, 64<<10)
		a.want("READ", err, 0)
		if err == nil && !slices.Equal(got, f.data) {
			a.want("READ of "+name, fmt.Errorf("%d bytes, %d written", len(got), len(f.data)), 0)
		}
	default:
		if len(f.data) > 32<<10 {
			_, err := a.s.Setattr(f.node, fp.SetattrIn{Valid: fp.FattrSize})
			a.want("SETATTR", err, 0)
			f.data = nil
			return
		}
		b := make([]byte, 1+a.r.IntN(4000))
		for i := range b {
			b[i] = byte(a.r.Uint32())
		}
		n, err := a.s.Write(f.node, f.fh, uint64(len(f.data)), b)
		a.want("WRITE", err, 0)
		f.data = append(f.data, b[:n]...)
	}
}

// check compares the files on the host with the model.
func (a *actor) check(t *testing.T) {
	t.Helper()
	if a.err != nil {
		t.Errorf("%s: %v", a.name, a.err)
		return
	}
	list, err := os.ReadDir(filepath.Join(a.s.dir, a.name))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(a.files) {
		t.Errorf("%s: %d files, the model has %d", a.name, len(list), len(a.files))
	}
	for name, f := range a.files {
		got, err := os.ReadFile(filepath.Join(a.s.dir, a.name, name))
		if err != nil || !slices.Equal(got, f.data) {
			t.Errorf("%s/%s: %d bytes, %v; the model has %d", a.name, name, len(got), err, len(f.data))
		}
	}
}

// TestReconnectLocks: the guest's locks stay while its front-end is away, and a request that
// waits for a lock continues to wait.
func TestReconnectLocks(t *testing.T) {
	forEachReconnect(t, func(t *testing.T, opts frontend.Options) {
		s := openAgain(t, opts, time.Minute)
		if err := os.WriteFile(filepath.Join(s.dir, "f"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		e, fh := s.openFile(t, "f")
		whole := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
		if err := s.Lock(e.NodeID, fh, 1, whole, 0, false); err != nil {
			t.Fatal(err)
		}
		granted := make(chan uint64, 3)
		for owner := range uint64(3) {
			go func() {
				if err := s.Lock(e.NodeID, fh, 10+owner, whole, 0, true); err != nil {
					t.Errorf("owner %d: %v", owner, err)
				}
				granted <- 10 + owner
			}()
		}
		for end := time.Now().Add(60 * time.Second); s.Queues[1].UnderWay() < 3; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the requests are not under way")
			}
		}
		host, err := os.OpenFile(filepath.Join(s.dir, "f"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		for range 3 {
			s.cut(t)
			lk := unix.Flock_t{Type: unix.F_WRLCK}
			if err := unix.FcntlFlock(host.Fd(), unix.F_OFD_SETLK, &lk); !errors.Is(err, unix.EAGAIN) {
				t.Fatalf("a lock on the host while the front-end is away: %v, want EAGAIN", err)
			}
			s.reconnect(t)
			if n := s.Queues[1].UnderWay(); n != 3 {
				t.Fatalf("%d requests wait, want 3", n)
			}
		}
		none := fp.FileLock{Type: unix.F_UNLCK, End: math.MaxInt64}
		owner := uint64(1)
		for range 3 {
			if err := s.Lock(e.NodeID, fh, owner, none, 0, false); err != nil {
				t.Fatal(err)
			}
			select {
			case owner = <-granted:
			case <-time.After(60 * time.Second):
				t.Fatal("nobody gets the lock")
			}
			select {
			case other := <-granted:
				t.Fatalf("%d and %d have the lock", owner, other)
			default:
			}
		}
	})
}
