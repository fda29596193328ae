package fusedev

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

const (
	smallSize = 4 << 10
	largeSize = 128 << 10
	fileSize  = 32 << 20
	listed    = 1000 // names in the directory that is listed
)

// workload does one operation in dir, again and again until stop says so, and returns how many.
type workload struct {
	name    string
	clients int
	run     func(dir string, client int, stop func() bool) (int, error)
}

var workloads = []workload{
	{"getattr", 1, getattr},
	{"getattr, 4 clients", 4, getattr},
	{"open", 1, open},
	{"read 4 KiB", 1, readSmall},
	{"readdir of 1000", 1, readdir},
	{"read 128 KiB, in memory", 1, readLarge},
}

// makeTree makes what the workloads use.
func makeTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte("govirtio"), fileSize/8), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "names"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range listed {
		if err := os.WriteFile(filepath.Join(dir, "names", fmt.Sprintf("name-%04d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func getattr(dir string, _ int, stop func() bool) (n int, err error) {
	fd, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statx_t
	for ; !stop(); n++ {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func open(dir string, _ int, stop func() bool) (n int, err error) {
	path := filepath.Join(dir, "file")
	for ; !stop(); n++ {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		if err := unix.Close(fd); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// readSmall reads without reading ahead, so that each call is a request.
func readSmall(dir string, _ int, stop func() bool) (int, error) {
	return readFile(dir, smallSize, unix.FADV_RANDOM, stop)
}

func readLarge(dir string, _ int, stop func() bool) (int, error) {
	return readFile(dir, largeSize, unix.FADV_SEQUENTIAL, stop)
}

// readFile reads the file over and over. What the client has of it is dropped before each time, and stays in
// memory on the host: of the host's file itself nothing is dropped.
func readFile(dir string, size, advice int, stop func() bool) (n int, err error) {
	fd, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	if err := unix.Fadvise(fd, 0, 0, advice); err != nil {
		return 0, err
	}
	b := make([]byte, size)
	for ; !stop(); n++ {
		off := int64(n) * int64(size) % fileSize
		if off == 0 && fs.Type == unix.FUSE_SUPER_MAGIC {
			if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
				return 0, err
			}
		}
		if k, err := unix.Pread(fd, b, off); err != nil || k != size || !bytes.HasPrefix(b, []byte("govirtio")) {
			return 0, fmt.Errorf("read %d bytes, %q...: %v", k, b[:8], err)
		}
	}
	return n, nil
}

func readdir(dir string, _ int, stop func() bool) (n int, err error) {
	path := filepath.Join(dir, "names")
	b := make([]byte, 32<<10)
	for ; !stop(); n++ {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		names := 0
		for {
			k, err := unix.ReadDirent(fd, b)
			if err != nil {
				return 0, err
			}
			if k == 0 {
				break
			}
			_, more, _ := unix.ParseDirent(b[:k], -1, nil)
			names += more
		}
		if err := unix.Close(fd); err != nil {
			return 0, err
		}
		if names != listed {
			return 0, fmt.Errorf("%d names, want %d", names, listed)
		}
	}
	return n, nil
}

// figure is what one run gave: operations in a second, and microseconds of processor that
// one took, of the server and of the server and the clients.
type figure struct{ rate, server, all float64 }

// cpuTime is what a process has used, in nanoseconds; see clock_getcpuclockid(3).
func cpuTime(pid int) (int64, error) {
	if pid == 0 {
		return 0, nil
	}
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|2), &ts)
	return ts.Nano(), err
}

// measure runs a workload for a while, or each operation once if that is 0.
func measure(w *workload, dir string, pid int, d time.Duration) (figure, error) {
	before, err := cpuTime(pid)
	if err != nil {
		return figure{}, err
	}
	own, _ := cpuTime(os.Getpid())
	began := time.Now()
	counts, errs := make([]int, w.clients), make([]error, w.clients)
	var wg sync.WaitGroup
	for i := range w.clients {
		wg.Go(func() {
			runtime.LockOSThread()
			calls := 0
			stop := func() bool { // the clock is not asked each time
				calls++
				return calls > 1 && (d == 0 || calls%16 == 0 && time.Since(began) >= d)
			}
			counts[i], errs[i] = w.run(dir, i, stop)
		})
	}
	wg.Wait()
	took := time.Since(began)
	after, err := cpuTime(pid)
	ownAfter, _ := cpuTime(os.Getpid())
	n := 0
	for i := range counts {
		if errs[i] != nil {
			return figure{}, errs[i]
		}
		n += counts[i]
	}
	each := func(ns int64) float64 { return float64(ns) / 1e3 / float64(n) }
	return figure{float64(n) / took.Seconds(), each(after - before), each(after - before + ownAfter - own)}, err
}

// TestServers runs each operation of each kind once, so that the benchmark does not rot.
func TestServers(t *testing.T) {
	guest.NeedFUSE(t)
	source := makeTree(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			dir, pid := start(t, k, source)
			for i := range workloads {
				if _, err := measure(&workloads[i], dir, pid, 0); err != nil {
					t.Errorf("%s: %v", workloads[i].name, err)
				}
			}
		})
	}
}

// turns are how many a second of measurement is cut into: kinds are compared turn by turn, between which the machine changes less.
const turns = 4

// TestMeasure measures all kinds in turns, round after round, if FUSEDEV_BENCH_ROUNDS is set. FUSEDEV_BENCH_KINDS and
// FUSEDEV_BENCH_ROWS choose, with semicolons between them. The table has medians, and how far rounds are apart.
func TestMeasure(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("FUSEDEV_BENCH_ROUNDS"))
	if rounds == 0 {
		t.Skip("FUSEDEV_BENCH_ROUNDS is not set")
	}
	guest.NeedFUSE(t)
	byURing(t)
	list := chosen(kinds(), "FUSEDEV_BENCH_KINDS", func(k *kind) string { return k.name })
	rows := chosen(workloads, "FUSEDEV_BENCH_ROWS", func(w *workload) string { return w.name })
	source := makeTree(t)
	dirs, pids := make([]string, len(list)), make([]int, len(list))
	for i, k := range list {
		dirs[i], pids[i] = start(t, k, source)
	}
	figures := make(map[[2]int][]figure)
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	for range rounds {
		for row := range rows {
			for range turns {
				for _, i := range order {
					f, err := measure(&rows[row], dirs[i], pids[i], time.Second/turns)
					if err != nil {
						t.Fatalf("%s, %s: %v", list[i].name, rows[row].name, err)
					}
					figures[[2]int{row, i}] = append(figures[[2]int{row, i}], f)
				}
				slices.Reverse(order) // so that nobody always comes after the same one
			}
		}
	}
	base := slices.IndexFunc(list, func(k kind) bool { return k.name == "go-fuse" })
	host := slices.IndexFunc(list, func(k kind) bool { return k.name == bare })
	fmt.Println("| operation | server | operations/s | spread | CPU of the server, us each | of all, us each | rate, go-fuse is 1 | CPU, go-fuse is 1 | rate, bare is 1 | CPU of all, bare is 1 |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for row := range rows {
		for i := range list {
			fs := figures[[2]int{row, i}]
			compared := func(base int, of func(figure) float64) string {
				if base < 0 || of(figures[[2]int{row, base}][0]) == 0 {
					return ""
				}
				return fmt.Sprintf("%.2f", ratio(fs, figures[[2]int{row, base}], of))
			}
			low, rate, high := spread(fs, func(f figure) float64 { return f.rate })
			_, server, _ := spread(fs, func(f figure) float64 { return f.server })
			_, all, _ := spread(fs, func(f figure) float64 { return f.all })
			fmt.Printf("| %s | %s | %.0f | %.0f to %.0f | %.1f | %.1f | %s | %s | %s | %s |\n", rows[row].name, list[i].name, rate, low, high, server, all,
				compared(base, func(f figure) float64 { return f.rate }), compared(base, func(f figure) float64 { return f.server }),
				compared(host, func(f figure) float64 { return f.rate }), compared(host, func(f figure) float64 { return f.all }))
		}
	}
}

// byURing has the kernel offer requests by io_uring, if it can, until the measurement is over.
func byURing(t *testing.T) {
	const path = "/sys/module/fuse/parameters/enable_uring"
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte("Y"), 0)
	}
	if err != nil {
		t.Log("without io_uring: ", err)
		return
	}
	t.Cleanup(func() { _ = os.WriteFile(path, old, 0) })
}

func chosen[T any](all []T, env string, name func(*T) string) []T {
	want := os.Getenv(env)
	if want == "" {
		return all
	}
	return slices.DeleteFunc(all, func(v T) bool { return !slices.Contains(strings.Split(want, ";"), name(&v)) })
}

// ratio is the median of what two kinds' rounds, each beside the other, differ by.
func ratio(fs, base []figure, of func(figure) float64) float64 {
	v := make([]float64, len(fs))
	for i := range fs {
		v[i] = of(fs[i]) / of(base[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func spread(fs []figure, of func(figure) float64) (low, median, high float64) {
	v := make([]float64, len(fs))
	for i := range fs {
		v[i] = of(fs[i])
	}
	slices.Sort(v)
	return v[0], v[len(v)/2], v[len(v)-1]
}
