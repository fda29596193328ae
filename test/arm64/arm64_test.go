// Package arm64 runs the tests of other packages on a kernel for arm64, which QEMU emulates
// on any machine: GOARCH=arm64 only shows that they can be built.
//
// Emulation does not show every fault: the host's processor is an x86-64. Its memory
// ordering is stronger than that of a real arm64.
package arm64

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// all are the packages whose tests need no other guest and no compiler.
var all = []string{
	"fuseproto", "virtqueue", "vhostuser", "server", "virtiofs", "dax", "dax/stretch",
	"passthrough", "passthrough/fstest -test.skip=TestFuse/[^d].*/ReaddirLarge", "passthrough/xattrmap",
	"fusedev", "frontend", "host", "sandbox", "hostwatch", "events", "notify",
	"cmd/govirtiofsd", "cmd/govirtiofs", "test/e2e", "internal/bench", "internal/doctor",
	"internal/eventfd", "internal/pause", "internal/record", "internal/spawn", "internal/version",
}

// quick are the packages that depend on system calls, struct layouts and instructions,
// without the tests that only take long.
var quick = []string{
	"fuseproto", "virtqueue", "vhostuser", "server", "virtiofs", "dax", "dax/stretch",
	"passthrough -test.skip=TestHugeListing|TestInodeSize|TestWalk",
	"passthrough/fstest -test.run=TestFuse/default/(Create|Open|Tmpfile|DirectIO|Mmap|Xattr|OFDLocks|FileFlags)",
	"fusedev", "sandbox", "internal/eventfd", "internal/pause", "hostwatch", "notify",
	"events -test.run=TestPhantom|TestRealEvents|TestRealOwn",
}

// suite is what one guest runs.
type suite struct {
	lines  []string // see run.sh
	kernel guest.Kind
}

// layOut builds the programs of a suite and returns the guest's files.
func layOut(t *testing.T, s suite) map[string]string {
	t.Helper()
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	out := guest.TempDir(t)
	files := sources(t, root)
	for _, line := range s.lines {
		pkg := strings.Fields(line)[0]
		to := filepath.Join("/tests", strings.ReplaceAll(pkg, "/", "_")+".test")
		files[build(t, root, out+to, "test", "-c", "./"+pkg)] = to
	}
	for _, p := range []string{"cmd/govirtiofs", "cmd/govirtiofsd"} {
		to := "/programs/" + filepath.Base(p)
		files[build(t, root, out+to, "build", "-ldflags", "-s -w", "./"+p)] = to
	}
	list := filepath.Join(out, "list")
	if err := os.WriteFile(list, []byte(strings.Join(s.lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files[list] = "/run/list"
	return files
}

// sources are all files of the repository.
func sources(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, dir := range []string{"cmd", "dax", "doc", "events", "frontend", "fuse", "fusedev", "fuseproto", "host", "hostwatch", "internal", "notify", "packaging",
		"passthrough", "sandbox", "server", "test", "vhostuser", "virtiofs", "virtqueue"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files[path] = "/repo" + strings.TrimPrefix(path, root)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	files[filepath.Join(root, "go.mod")] = "/repo/go.mod"
	return files
}

// build runs the go command for arm64 and returns the program's path.
func build(t *testing.T, root, out string, args ...string) string {
	t.Helper()
	args = append([]string{args[0], "-o", out}, args[1:]...)
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, b)
	}
	return out
}

// run runs a suite. When the guest has ended, it reports each package as a subtest.
func run(t *testing.T, s suite, timeout time.Duration) {
	t.Helper()
	guest.Need(t, guest.ARM64)
	if s.kernel != 0 {
		guest.Need(t, s.kernel)
	}
	begin := time.Now()
	files := layOut(t, s)
	t.Logf("built in %.1f s", time.Since(begin).Seconds())
	vm, err := guest.Start(t.Context(), guest.ARM64, guest.Options{
		Files:   files,
		Script:  ". /repo/test/arm64/run.sh",
		Mem:     2048,
		CPUs:    min(4, runtime.NumCPU()),
		Disk:    true,
		Kernel:  s.kernel,
		Timeout: timeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range s.lines {
		pkg := strings.Fields(line)[0]
		t.Run(pkg, func(t *testing.T) {
			err := vm.WaitOutput(t.Context(), "@@ ended "+pkg+"\n")
			report(t, pkg, vm.Output())
			if err != nil {
				t.Error(err)
			}
		})
	}
	result, err := vm.Wait()
	if err != nil {
		t.Errorf("%v\n%s", err, result.Console)
	}
	if path := os.Getenv("GOVIRTIOFS_ARM64_LOG"); path != "" {
		if err := os.WriteFile(path, []byte(result.Console), 0o600); err != nil {
			t.Error(err)
		}
	}
	t.Logf("the guest took %.1f s", result.Duration.Seconds())
}

// report counts the tests of a package in a guest's output.
func report(t *testing.T, pkg, output string) {
	t.Helper()
	mine, rest, _ := strings.Cut(output, "@@ end "+pkg+" ")
	if i := strings.LastIndex(mine, "@@ ended "); i >= 0 {
		mine = mine[i:]
	}
	end, _, _ := strings.Cut(rest, "\n")
	status, seconds, _ := strings.Cut(end, " ")
	counts := map[string]int{}
	skipped := ""
	for line := range strings.Lines(mine) {
		what, rest, found := strings.Cut(strings.TrimLeft(line, " "), ": ")
		if !found || !strings.HasPrefix(what, "--- ") {
			continue
		}
		counts[what]++
		if name, _, _ := strings.Cut(rest, " "); what == "--- SKIP" {
			skipped += " " + name
		}
	}
	t.Logf("%d pass, %d fail, %d skip in %s s%s", counts["--- PASS"], counts["--- FAIL"], counts["--- SKIP"], seconds, skipped)
	if n, err := strconv.Atoi(status); err != nil || n != 0 || counts["--- PASS"] == 0 {
		t.Errorf("status %q\n%s", status, mine)
	}
}

// TestIntegrationARM64 runs the quick packages: those that differ between
// architectures.
func TestIntegrationARM64(t *testing.T) {
	run(t, suite{lines: listed(t, quick)}, 30*time.Minute)
}

// TestIntegrationARM64All runs all packages that can run there.
func TestIntegrationARM64All(t *testing.T) {
	run(t, suite{lines: listed(t, all)}, 60*time.Minute)
}

// TestIntegrationARM64Pages16K runs the same on a kernel with pages of 16 KiB.
func TestIntegrationARM64Pages16K(t *testing.T) {
	run(t, suite{lines: listed(t, all), kernel: guest.ARM64Pages16K}, 60*time.Minute)
}

// listed is the content of GOVIRTIOFS_ARM64: "PACKAGE ARGUMENT..." separated by
// semicolons. Without the variable it is lines, if there is time for them.
func listed(t *testing.T, lines []string) []string {
	t.Helper()
	if list := os.Getenv("GOVIRTIOFS_ARM64"); list != "" {
		return strings.Split(list, ";")
	}
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("takes minutes: GOVIRTIOFS_LONG=1")
	}
	return lines
}
