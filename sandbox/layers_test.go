package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// attacks are what somebody who has taken the daemon over would do. Each succeeds for
// root without any layer.
var attacks = map[string]func(a *attack) error{
	"read by name": func(*attack) error { return readFrom(unix.AT_FDCWD, "/etc/passwd") },
	// A descriptor of a directory outside: what a sandbox that changes the root only
	// is left by.
	"read by descriptor": func(a *attack) error { return readFrom(a.outside, "passwd") },
	"run a program":      func(*attack) error { return execNothing("/etc/passwd") },
	"mount":              func(*attack) error { return unix.Mount("none", "/", "", unix.MS_SLAVE|unix.MS_REC, "") },
	"signal another":     func(a *attack) error { return unix.Kill(a.other, 0) },
	"connect":            func(a *attack) error { return connectTo(a.port) },
	"new namespace":      func(*attack) error { return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS) },
	"look into the log":  func(*attack) error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_UNREAD, nil); return err },
}

// attack is what the attacker has.
type attack struct {
	outside int // descriptor of a directory outside of the share
	other   int // process id
	port    int // of a server on the loopback network
}

func readFrom(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// execNothing asks for a file that is no program: EACCES (no right to run it) and
// ENOEXEC come after the file was found, by DAC that is root's, too, without an x bit.
// Landlock refuses with EACCES as well, so that layer is tested by helpLandlock.
func execNothing(path string) error {
	err := unix.Exec(path, []string{path}, nil)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOEXEC) {
		return nil
	}
	return err
}

func connectTo(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

// layers put one layer in place and return with nothing else changed.
var layers = map[string]func(dir string) error{
	"nothing":   func(string) error { return nil },
	"namespace": func(dir string) error { _, err := (&Namespace{}).Enter(dir); return err },
	"chroot":    func(dir string) error { _, err := Chroot(dir); return err },
	"landlock": func(dir string) error {
		v, err := Open(dir)
		if err != nil {
			return err
		}
		return Landlock(LandlockOptions{Share: v.Root})
	},
	"capabilities": func(string) error { return SetCapabilities(DefaultCapabilities()) },
	"seccomp":      func(string) error { return Filter(FilterOptions{Action: FilterKill}) },
}

// helpLayer puts the layer in place and makes the attack: LAYER,ATTACK,PORT,PID,DIR.
func helpLayer(arg string) error {
	f := strings.SplitN(arg, ",", 5)
	const insideEnv = "GOVIRTIOFS_SANDBOX_INSIDE"
	if f[0] == "namespace" && os.Getenv(insideEnv) == "" {
		cmd, err := (&Namespace{}).Start([]string{insideEnv + "=1"}, nil)
		if err != nil {
			return err
		}
		return cmd.Wait()
	}
	a := &attack{}
	var err1, err2 error
	a.port, err1 = strconv.Atoi(f[2])
	a.other, err2 = strconv.Atoi(f[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var err error
	if a.outside, err = unix.Open("/etc", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if err := layers[f[0]](f[4]); err != nil {
		return err
	}
	fmt.Println("attack", errnoOf(attacks[f[1]](a)))
	return nil
}

// TestIntegrationLayersAlone makes every attack against every layer with all others off.
// Each layer has to stop what it is there for; without any layer all succeed, which
// shows that it is the layer that stops them.
func TestIntegrationLayersAlone(t *testing.T) {
	guest.NeedRoot(t)
	needLandlock(t)
	program, err := withoutCgo()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	stops := map[string][]string{
		"nothing": {},
		// It is left by a descriptor; the daemon has none of a directory outside.
		"namespace":    {"read by name", "run a program", "signal another", "connect"},
		"chroot":       {"read by name", "run a program"},
		"landlock":     {"read by name", "read by descriptor", "mount", "connect"},
		"capabilities": {"mount", "new namespace", "look into the log"},
		"seccomp":      {"run a program", "mount", "connect", "new namespace", "look into the log"},
	}
	for layer, stopped := range stops {
		for name := range attacks {
			t.Run(layer+"/"+name, func(t *testing.T) {
				arg := fmt.Sprintf("%s,%s,%d,%d,%s", layer, name, port, os.Getpid(), share(t))
				out, err := helperOf(t, program, "layer", arg, 0)
				got := strings.TrimPrefix(strings.TrimSpace(out), "attack ")
				if killedBy(err) == unix.SIGSYS {
					got = "killed"
				} else if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				want := false
				for _, s := range stopped {
					want = want || s == name
				}
				// What a layer stops beside what it is there for is no fault; what
				// nothing at all stops has to succeed.
				if want && got == "<nil>" || layer == "nothing" && got != "<nil>" {
					t.Errorf("%s: %s", name, got)
				}
			})
		}
	}
}
