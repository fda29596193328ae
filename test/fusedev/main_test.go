// Package fusedev measures package fusedev against other servers of /dev/fuse, on the same kernel
// and the same files. TestServers runs each once; "make bench-fusedev" measures.
package fusedev

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// serveEnv has a process of this program serve: a kind, the mount and the host's directory, with
// commas between them.
const serveEnv = "FUSEDEV_BENCH_SERVE"

// hpEnv is the path of libfuse's example passthrough_hp (3.17 or later: with FUSE_PASSTHROUGH), which is
// measured, too, if it is set.
const hpEnv = "PASSTHROUGH_HP"

func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(serveEnv), ","); len(args) == 3 {
		if err := serve(args[0], args[1], args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// kind is a way to show a directory of the host.
type kind struct {
	name  string
	serve func(target, source string) error // in a process of its own; nil is another program
	args  []string                          // of passthrough_hp
}

const bare = "bare" // the host's directory itself

func kinds() []kind {
	list := []kind{{name: bare}}
	if os.Getenv(hpEnv) != "" {
		list = append(list,
			kind{name: "libfuse", args: []string{"--nopassthrough"}},
			kind{name: "libfuse passthrough"})
	}
	return append(list,
		kind{name: "go-fuse", serve: func(target, source string) error { return serveGoFuse(target, source, -1) }},
		kind{name: "go-fuse passthrough", serve: func(target, source string) error { return serveGoFuse(target, source, 1) }},
		kind{name: "fusedev", serve: func(target, source string) error { return serveOurs(target, source, fusedev.Options{}) }},
		kind{name: "fusedev io_uring", serve: func(target, source string) error { return serveOurs(target, source, fusedev.Options{IOUring: true}) }},
		kind{name: "fusedev passthrough", serve: func(target, source string) error { return serveBacked(target, source) }})
}

func serve(name, target, source string) error {
	for _, k := range kinds() {
		if k.name == name {
			return k.serve(target, source)
		}
	}
	return fmt.Errorf("no kind %q", name)
}

// serveGoFuse is go-fuse's example loopback, with the options that it has by default. With a depth above 0 it
// uses FUSE_PASSTHROUGH, which it does as root if nothing else is said.
func serveGoFuse(target, source string, depth int) error {
	root, err := gofs.NewLoopbackRoot(source)
	if err != nil {
		return err
	}
	second := time.Second
	s, err := gofs.Mount(target, root, &gofs.Options{AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true,
		MountOptions: gofuse.MountOptions{MaxStackDepth: depth, AllowOther: true, DirectMount: true, FsName: source, Name: "loopback",
			Options: []string{"default_permissions"}}})
	if err != nil {
		return err
	}
	s.Wait()
	return nil
}

func serveOurs(target, source string, o fusedev.Options) error {
	return servePassthrough(target, source, passthrough.Config{}, o)
}

// serveBacked has the kernel use the files of the host.
func serveBacked(target, source string) error {
	return servePassthrough(target, source, passthrough.Config{BackingFiles: true, KillprivV2: true}, fusedev.Options{})
}

func servePassthrough(target, source string, c passthrough.Config, o fusedev.Options) (err error) {
	if c.RootFD, err = unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if c.ProcFD, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	c.Xattr = true
	fs, err := passthrough.New(c)
	if err != nil {
		return err
	}
	s := govirtiofs.Server{FS: fs, Queues: 2}
	o.Subtype, o.AllowOther, o.Permissions = "bench", true, true
	return s.Mount(context.Background(), target, o)
}

// start has a kind show source, and returns where it does and its process; 0 is none.
func start(t testing.TB, k kind, source string) (dir string, pid int) {
	t.Helper()
	if k.name == bare {
		return source, 0
	}
	target := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+strings.Join([]string{k.name, target, source}, ","))
	if k.serve == nil {
		cmd = exec.Command(os.Getenv(hpEnv), append(k.args, "--foreground", source, target)...)
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	mounttest.StartMount(t, cmd, target)
	return target, cmd.Process.Pid
}
