package fstest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/fstest"
	"github.com/govirtiofs/govirtiofs/server"
)

// The share is served by a process of its own: a program that faults on a mapping of a
// file which it serves itself stops its own garbage collector for ever.

func TestMain(m *testing.M) {
	if args := os.Getenv("FSTEST_DAEMON"); args != "" {
		if err := daemon(strings.Split(args, ";")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestHost runs the suite on a directory of the host: what fails there is wrong in the
// suite.
func TestHost(t *testing.T) {
	dir := t.TempDir()
	fstest.Run(t, dir, dir)
}

// configs are shares to run the suite on.
var configs = map[string]func(*passthrough.Config){
	"default":   func(*passthrough.Config) {},
	"uring":     func(*passthrough.Config) {}, // requests come by io_uring, if the kernel lets them
	"never":     func(c *passthrough.Config) { c.Cache = passthrough.CacheNever; c.AllowMmap = true },
	"direct":    func(c *passthrough.Config) { c.AllowDirectIO = true },
	"writeback": func(c *passthrough.Config) { c.Writeback = true },
	// The kernel reads and writes the files itself, where it can.
	"backing": func(c *passthrough.Config) { c.BackingFiles, c.KillprivV2 = true, true },
	"locks": func(c *passthrough.Config) {
		c.PosixLocks, c.Flocks = true, true
		c.KillprivV2 = true
		c.PosixACL = passthrough.Auto
	},
	// Few descriptors: nodes are opened again and again. And the host's ids are others,
	// which the suite does not look at.
	"poor": func(c *passthrough.Config) {
		c.MaxFDs, c.NoReaddirplus, c.FileHandles = 100, true, passthrough.HandlesPrefer
		m, err := passthrough.NewIDMap([]passthrough.IDRule{{Kind: passthrough.IDMapBoth, To: translatedRoot, Count: 65536}})
		if err != nil {
			panic(err)
		}
		c.UIDs, c.GIDs = m, m
	},
	// Without privileges: what the guest's root does is kept in attributes.
	"ownership": func(c *passthrough.Config) { c.Ownership = passthrough.OwnershipXattr },
}

// TestFuse runs the suite on shares mounted with /dev/fuse.
func TestFuse(t *testing.T) {
	guest.NeedFUSE(t)
	for name := range configs {
		t.Run(name, func(t *testing.T) {
			source, target := t.TempDir(), t.TempDir()
			var skip []string
			switch {
			case testing.Short() && name != "default":
				t.Skip("short")
			case name == "writeback":
				// The guest believes in its own sizes then (fs/fuse/inode.c:
				// fuse_change_attributes): a file is changed on one side only.
				skip = []string{"HostCoherence"}
			case name == "backing":
				// The kernel's own open file keeps the flags that it was opened with: fcntl(F_SETFL)
				// does not reach it (fs/fuse/passthrough.c).
				skip = []string{"OpenAppend", "DirectIOTurnedOff"}
			}
			if owner := map[string]int{"ownership": ownershipUser, "poor": translatedRoot}[name]; owner != 0 {
				if err := os.Chown(source, owner, owner); err != nil {
					t.Fatal(err)
				}
			}
			mount(t, name, source, target)
			fstest.Run(t, target, source, skip...)
		})
	}
}

// TestTwoShares runs the suite on two shares of one process at once, whose options differ in
// much.
func TestTwoShares(t *testing.T) {
	guest.NeedFUSE(t)
	if testing.Short() {
		t.Skip("short")
	}
	var shares []string
	var suites [2]*exec.Cmd
	var said [2]bytes.Buffer
	for i, name := range []string{"locks", "poor"} {
		source, target := t.TempDir(), t.TempDir()
		if name == "poor" {
			if err := os.Chown(source, translatedRoot, translatedRoot); err != nil {
				t.Fatal(err)
			}
		}
		shares = append(shares, strings.Join([]string{name, source, target}, ","))
		// The suite has a working directory and a umask: each has its process.
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSuite$", "-test.v")
		cmd.Env = append(os.Environ(), suiteEnv+"="+target+","+source)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stdout, cmd.Stderr = &said[i], &said[i]
		suites[i] = cmd
	}
	mountAll(t, shares)
	for _, cmd := range suites {
		if err := spawn.Start(cmd); err != nil {
			t.Fatal(err)
		}
	}
	for i, cmd := range suites {
		err := cmd.Wait()
		out := said[i].String()
		passed := strings.Count(out, "--- PASS: TestSuite/")
		t.Logf("%s: %d subtests passed, %d skipped", shares[i], passed, strings.Count(out, "--- SKIP: TestSuite/"))
		if err != nil || passed < 40 {
			t.Errorf("%s: %v\n%s", shares[i], err, out)
		}
	}
}

// suiteEnv is where TestSuite runs the suite: the mount, a comma, and the host's directory.
const suiteEnv = "FSTEST_SUITE"

// TestSuite is what TestTwoShares starts.
func TestSuite(t *testing.T) {
	target, source, ok := strings.Cut(os.Getenv(suiteEnv), ",")
	if !ok {
		t.Skip("TestTwoShares runs it")
	}
	fstest.Run(t, target, source)
}

// mount starts a daemon and waits until its share is mounted.
func mount(t *testing.T, config, source, target string) {
	t.Helper()
	mountAll(t, []string{strings.Join([]string{config, source, target}, ",")})
}

// mountAll is mount for several shares of one daemon, each its configuration, source and
// target with commas between them.
func mountAll(t *testing.T, shares []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FSTEST_DAEMON="+strings.Join(shares, ";"))
	cmd.Stderr = os.Stderr
	targets := make([]string, len(shares))
	for i, share := range shares {
		targets[i] = strings.Split(share, ",")[2]
	}
	mounttest.Start(t, cmd, targets...)
}

// daemon mounts shares and serves them until they are unmounted.
func daemon(shares []string) error {
	process, err := host.New(host.Options{})
	if err != nil {
		return err
	}
	serves := make([]func() error, len(shares))
	for i, share := range shares {
		if serves[i], err = newShare(strings.Split(share, ","), process); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	ended := make(chan error)
	for _, serve := range serves {
		go func() { ended <- serve() }()
	}
	for range serves {
		err = errors.Join(err, <-ended)
	}
	return err
}

// newShare mounts a share, and returns what serves it until it is unmounted.
func newShare(args []string, process *host.Host) (serve func() error, err error) {
	source, target := args[1], args[2]
	root, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	cfg := passthrough.Config{RootFD: root, ProcFD: proc, Xattr: true, AllowIdmap: true, Host: process}
	if edit := configs[args[0]]; edit != nil {
		edit(&cfg)
	} else {
		special[args[0]](&cfg)
	}
	m, err := fusedev.New(target, fusedev.Options{Subtype: "fstest", AllowOther: true, Permissions: true,
		IOUring: args[0] == "uring"})
	if err != nil {
		return nil, err
	}
	if args[0] == "ownership" {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(ownershipUser), syscall.Setuid(ownershipUser)); err != nil {
			return nil, err
		}
	}
	fs, err := passthrough.New(cfg)
	if err != nil {
		return nil, err
	}
	s := server.New(fs, server.Options{ReadOnly: cfg.Immutable, Host: process})
	return func() error {
		defer func() { _ = m.Close() }()
		return m.Serve(s, workers)
	}, nil
}

const workers = 3

// ownershipUser serves the share "ownership".
const ownershipUser = 4711

// translatedRoot is the guest's root on the host, in the share "poor".
const translatedRoot = 100000
