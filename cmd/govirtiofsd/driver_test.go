package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/clientmodel"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// driven is a daemon whose worker is killed while clients of package clientmodel use it.
type driven struct {
	args   []string
	queues int
	opts   clientmodel.Options
}

func drivens() map[string]driven {
	host := clientmodel.Options{Xattr: true, Nodes: true, Locks: true}
	own := clientmodel.Options{Xattr: true, Nodes: true, Ownership: true, Locks: true}
	return map[string]driven{
		"namespace, 4 queues":  {[]string{"--sandbox=namespace", "--xattr", "--locks=host"}, 4, host},
		"chroot, 2 queues":     {[]string{"--sandbox=chroot", "--xattr", "--locks=host"}, 2, host},
		"none, 1 queue":        {[]string{"--sandbox=none", "--xattr", "--locks=host"}, 1, host},
		"attributes, 2 queues": {[]string{"--sandbox=namespace", "--xattr", "--ownership=xattr", "--locks=host"}, 2, own},
	}
}

// TestIntegrationDriven kills workers at random moments, also while they take over, under a mix of all
// requests that change something, and while a process on the host contends for their locks. Each reply is
// compared with a model, and so are the trees in the end, what each node and open file is, locks, and the lookup
// counts.
func TestIntegrationDriven(t *testing.T) {
	guest.NeedRoot(t)
	kills, seed := howOften(15, 600), randomSeed(t)
	for name, d := range drivens() {
		t.Run(name, func(t *testing.T) { d.run(t, kills, seed) })
	}
}

func (v driven) run(t *testing.T, kills int, seed uint64) {
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, append([]string{"--shared-dir=" + share, "--socket-path=" + socket}, v.args...)...)
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, frontend.Options{Queues: v.queues})
	if err != nil {
		t.Fatal(err)
	}
	c := handshake(t, f)
	var served atomic.Int64
	users := startUsers(t, c, share, 2+2*v.queues, seed, v.opts, &served)
	killWorkers(t, d.cmd.Process.Pid, kills, seed, users, &served)
	users.end(t, share)
	c.Close()
	d.wantStatus(exitOK)
	wantNoFiles(t, socket)
	t.Logf("%d deaths, %d requests", kills, served.Load())
}

// users are clients that run.
type users struct {
	all  []*clientmodel.User
	errs []error     // and that of the contender
	stop atomic.Bool // all end
	wg   sync.WaitGroup
}

func startUsers(t *testing.T, c *frontend.Client, share string, n int, seed uint64, opts clientmodel.Options, served *atomic.Int64) *users {
	t.Helper()
	shared, err := clientmodel.NewShared(c)
	if err != nil {
		t.Fatal(err)
	}
	us := &users{errs: make([]error, n+1)}
	for i := range n {
		u, err := clientmodel.NewUser(c, fmt.Sprint("user", i), seed+uint64(i), opts, shared, served)
		if err != nil {
			t.Fatal(err)
		}
		us.all = append(us.all, u)
	}
	for i, u := range us.all {
		us.wg.Go(func() {
			if us.errs[i] = u.Run(us.stop.Load); us.errs[i] != nil {
				us.stop.Store(true)
			}
		})
	}
	if opts.Locks {
		us.wg.Go(func() {
			if us.errs[n] = shared.ContendFromHost(share, us.stop.Load); us.errs[n] != nil {
				us.stop.Store(true)
			}
		})
	}
	return us
}

// end ends the users and looks at what has come of it.
func (us *users) end(t *testing.T, share string) {
	us.stop.Store(true)
	us.wg.Wait()
	if err := us.errs[len(us.all)]; err != nil {
		t.Error(err)
	}
	for i, u := range us.all {
		if err := us.errs[i]; err != nil {
			t.Error(err)
		} else if err := u.Check(share); err != nil {
			t.Error(err)
		}
	}
}

// killWorkers kills n workers of a keeper. Between two there is a random time, and nearly always an
// answered request.
func killWorkers(t *testing.T, keeper, n int, seed uint64, us *users, served *atomic.Int64) {
	t.Helper()
	r, last := rand.New(rand.NewPCG(seed, 3)), 0
	for killed := 0; killed < n && !us.stop.Load(); {
		if r.IntN(5) > 0 {
			before := served.Load()
			for end := time.Now().Add(60 * time.Second); served.Load() <= before+2 && !us.stop.Load(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					us.stop.Store(true)
					t.Fatalf("nothing is served after %d deaths", killed)
				}
			}
		}
		time.Sleep(time.Duration(r.IntN(20_000)) * time.Microsecond) // any moment will do
		if all := daemontest.Children(t, keeper); len(all) == 1 && all[0] != last {
			last = all[0]
			if unix.Kill(last, unix.SIGKILL) == nil {
				killed++
			}
		}
	}
}

// howOften is the number of times that a test repeats itself: few times, or many with GOVIRTIOFS_LONG.
func howOften(few, many int) int {
	if os.Getenv("GOVIRTIOFS_LONG") != "" {
		return many
	}
	return few
}

// randomSeed is another one in each run, or GOVIRTIOFS_SEED. The log has it.
func randomSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GOVIRTIOFS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("GOVIRTIOFS_SEED: %v", err)
		}
	}
	t.Logf("GOVIRTIOFS_SEED=%d", seed)
	return seed
}
