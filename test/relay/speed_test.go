package relay_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/relay"
	"github.com/govirtiofs/govirtiofs/relay/program"
	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// kinds are the requests that are measured, by the argument of relaywork.
var kinds = []struct{ name, size string }{{"GETATTR", "0"}, {"READ of 4 KiB", "4096"}, {"READ of 128 KiB", "131072"}}

// speed is how many requests were done in a second, how much processor time of the client and of all who serve it each took, and how
// often one of those who serve it slept.
type speed struct {
	rate   float64
	cost   time.Duration
	sleeps float64
}

// load has relaywork use a directory, which processes serve whose command lines have one of the words.
func (b *bench) load(dir, size string, words ...string) speed {
	b.t.Helper()
	before, slept := serving(words)
	cmd := b.command(relaywork, dir, "load", size)
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatal(err)
	}
	after, sleeps := serving(words)
	used := after - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	var n int64
	var s speed
	if _, err := fmt.Sscan(string(out), &n, &s.rate); err != nil || n == 0 {
		b.t.Fatalf("%q: %v", out, err)
	}
	s.cost, s.sleeps = used/time.Duration(n), float64(sleeps-slept)/float64(n)
	return s
}

// serving is the processor time that processes have used whose command lines have one of the words, and this process if
// there is the word "self", and how often their threads have slept.
func serving(words []string) (sum time.Duration, sleeps int64) {
	const tick = time.Second / 100 // USER_HZ
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !slices.ContainsFunc(words, func(w string) bool { return bytes.Contains(line, []byte(w)) }) {
			continue
		}
		sleeps += slept(d)
		b, _ := os.ReadFile(filepath.Join(d, "stat"))
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			sum += time.Duration(user+system) * tick
		}
	}
	var own unix.Rusage
	if slices.Contains(words, "self") && unix.Getrusage(unix.RUSAGE_SELF, &own) == nil {
		sum += time.Duration(own.Utime.Nano() + own.Stime.Nano())
		sleeps += slept("/proc/self")
	}
	return sum, sleeps
}

// slept is how often the threads of a process have slept.
func slept(process string) (n int64) {
	list, _ := filepath.Glob(filepath.Join(process, "task/*/status"))
	for _, path := range list {
		b, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		if f := strings.Fields(rest); len(f) > 0 {
			one, _ := strconv.ParseInt(f[0], 10, 64)
			n += one
		}
	}
	return n
}

// measured are the programs that TestMeasureRelay starts, by the names of recipes.
var measured = []string{"bindfs", "mergerfs", "squashfuse_ll", "gocryptfs", "sshfs"}

// TestMeasureRelay compares a program's own mount with that of a relay, and with what is possible: a pump, which does nothing
// but carry each message from /dev/fuse to the program's socket and back. It prints the rates, and the rates that follow from
// the processor time of each request if all processors are busy: those depend less on other work of the machine. It asserts
// nothing. GOVIRTIOFS_PROGRAMS says which programs.
func TestMeasureRelay(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("measures for minutes: GOVIRTIOFS_LONG=1")
	}
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	for _, r := range recipes() {
		if slices.Contains(measured, r.name) && r.chosen() {
			t.Run(r.name, func(t *testing.T) {
				needPrograms(t, r.needs...)
				measureRelay(t, &r)
			})
		}
	}
}

// measureRelay measures one program.
func measureRelay(t *testing.T, r *recipe) {
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("%d processors, load %s", runtime.NumCPU(), load)
	b := newBench(t, users[0])
	args := r.prepare(b)
	own := b.mounting(t, args)
	if r.empty {
		b.run("", relaywork, own, "", "f")
	}
	relayed, running := b.mounted(nil, args...)
	defer running.stop()
	pumped := b.mkdir("pumped")
	stop, place := pump(t, pumped, args...)
	defer stop()

	ways := []struct {
		name, dir string
		words     []string
		rate      []float64 // of the program's own mount
		cost      []float64
		sleeps    []float64 // for each request
	}{
		{name: "own", dir: own, words: []string{own}},
		{name: "pump", dir: pumped, words: []string{"self", place}},
		{name: "relay", dir: relayed, words: []string{relayed, b.path("govirtiofs-program-")}},
	}
	for _, k := range kinds {
		for range 7 {
			var base speed
			for i := range ways {
				w := &ways[i]
				got := b.load(w.dir, k.size, w.words...)
				if i == 0 {
					base = got
				}
				w.rate, w.cost = append(w.rate, got.rate/base.rate), append(w.cost, float64(base.cost)/float64(got.cost))
				w.sleeps = append(w.sleeps, got.sleeps)
				t.Logf("%s, %s: %.0f a second, %v each, %.2f sleeps", k.name, w.name, got.rate, got.cost, got.sleeps)
			}
		}
		for i := range ways {
			w := &ways[i]
			t.Logf("MEDIANS %s, %-5s: rate %s, by processor time %s, sleeps %s", k.name, w.name, spread(w.rate), spread(w.cost), spread(w.sleeps))
			w.rate, w.cost, w.sleeps = nil, nil, nil
		}
	}
}

// spread is the median, the least and the most.
func spread(v []float64) string {
	slices.Sort(v)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", v[len(v)/2], v[0], v[len(v)-1])
}

// mounting has a program mount by itself, until the end of the test.
func (b *bench) mounting(t *testing.T, args []string) (dir string) {
	t.Helper()
	dir = b.mkdir("own")
	words := slices.Clone(args)
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "{mount}", dir)
	}
	cmd := b.command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("umount", "-l", dir).Run()
		_ = cmd.Wait()
	})
	if err := sample.Until(func() error {
		var at, up unix.Stat_t
		if err := errors.Join(unix.Stat(dir, &at), unix.Stat(b.dir, &up)); err != nil || at.Dev != up.Dev {
			return err
		}
		return errors.New("nothing is mounted")
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pump mounts a program on dir without a relay. The program has place in its command line.
func pump(t *testing.T, dir string, args ...string) (stop func(), place string) {
	t.Helper()
	p, err := program.New(program.Options{Args: args, Capabilities: []uintptr{unix.CAP_DAC_OVERRIDE}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mount, err := fusedev.New(dir, fusedev.Options{AllowOther: true, Permissions: true, MaxRead: relay.MaxData})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.Socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var socket int
	if err := raw.Control(func(fd uintptr) { socket, err = unix.Dup(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(socket, false); err != nil {
		t.Fatal(err)
	}
	// One thread each way: with two, twice as many sleep.
	go func() {
		runtime.LockOSThread()
		b := make([]byte, fusedev.BufferSize)
		for {
			n, err := mount.Read(b)
			if err != nil {
				return
			}
			_, _ = unix.Write(socket, b[:n])
		}
	}()
	go func() {
		runtime.LockOSThread()
		b := make([]byte, fusedev.BufferSize)
		for {
			n, err := unix.Read(socket, b)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 || mount.Answer(b[:n]) != nil {
				return
			}
		}
	}()
	return func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s\n", out)
		}
		_ = unix.Shutdown(socket, unix.SHUT_RDWR)
		_ = m.Socket.Close()
		_ = p.Close()
		_ = mount.Close()
		_ = unix.Close(socket)
	}, p.MountPoint()
}
