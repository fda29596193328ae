package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The parts that test/guest/setup.sh makes in addition to the kinds, and programs
// in them.
const (
	peersPart = "peers"

	// RustPeer is the name of virtiofsd 1.14, see Peer.
	RustPeer = "virtiofsd-rust"
	// CPeer is the name of the virtiofsd that was part of QEMU 7.2, see Peer.
	CPeer = "virtiofsd-c"
)

// setupTimeout bounds one run of setup.sh, which downloads up to 80 MB.
const setupTimeout = 10 * time.Minute

// Need makes sure that the test can run guests of this kind. If it cannot, the test
// is skipped, or fails when the environment variable GOVIRTIOFS_REQUIRE is 1.
//
// Missing parts are downloaded only when GOVIRTIOFS_GUESTS or GOVIRTIOFS_REQUIRE
// is 1: a plain "go test" uses no network.
func Need(t testing.TB, kind Kind) {
	t.Helper()
	need(t, kind.String())
}

// Peer makes sure, as Need does, that another back-end is there. name is RustPeer or
// CPeer. Peer returns the path of its program.
func Peer(t testing.TB, name string) string {
	t.Helper()
	need(t, peersPart)
	path, err := PeerPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// NeedTree makes sure, as Need does, that a part of test/guest/setup.sh is there which
// is not a guest. It returns the directory with the part's unpacked packages.
func NeedTree(t testing.TB, part string) string {
	t.Helper()
	need(t, part)
	path, err := partFile(part, "tree")
	if err != nil {
		t.Fatal(err)
	}
	// The cache of the repository may be a link.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// NeedFUSE makes sure, as Need does, that this process can mount FUSE file systems.
func NeedFUSE(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		Missing(t, err)
	}
}

// NeedRoot makes sure, as Need does, that the test runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "this test needs root")
	}
}

// NeedLinux skips the test on a kernel older than major.minor, which does not have what it is about.
func NeedLinux(t testing.TB, major, minor int, what string) {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var haveMajor, haveMinor int
	if _, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor); err != nil || haveMajor < major || haveMajor == major && haveMinor < minor {
		t.Skipf("Linux %s does not have %s: it is there from %d.%d on", release, what, major, minor)
	}
}

// Missing skips the test because something is missing, or fails it when the
// environment variable GOVIRTIOFS_REQUIRE is 1.
func Missing(t testing.TB, what any) {
	t.Helper()
	if required() {
		t.Fatal(what)
	}
	t.Skip(what)
}

func required() bool { return os.Getenv("GOVIRTIOFS_REQUIRE") == "1" }

// PeerPath is the path of a peer's program after Setup of "peers".
func PeerPath(name string) (string, error) { return partFile("bin", name) }

// TreePath is the directory of a part with files for guests, such as "fio".
func TreePath(part string) (string, error) { return partFile(part, "tree") }

// Setup runs test/guest/setup.sh for a part: the name of a kind, or "peers". A part
// that is ready costs nothing.
func Setup(ctx context.Context, part string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, "test/guest/setup.sh"), part)
	// The script's children end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("test/guest/setup.sh %s: %w\n%s", part, err, bytes.TrimSpace(out))
	}
	return nil
}

// setups holds for each part the function that sets it up once in this process.
var setups sync.Map

// need sets a part up if the environment or what is there allows it.
func need(t testing.TB, part string) {
	t.Helper()
	if err := available(part, required() || os.Getenv("GOVIRTIOFS_GUESTS") == "1"); err != nil {
		Missing(t, err)
	}
}

// available returns nil if a part is ready. If download is set, it makes the part
// ready first.
func available(part string, download bool) error {
	if !download {
		root, err := Root()
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(root, ".cache/guests", part+".ok")); err != nil {
			return fmt.Errorf("guest %s is not set up: run test/guest/setup.sh %[1]s, or set GOVIRTIOFS_GUESTS=1", part)
		}
	}
	once, _ := setups.LoadOrStore(part, sync.OnceValue(func() error {
		return Setup(context.Background(), part)
	}))
	return once.(func() error)()
}
