package program

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Placeholders in Options.Args.
const (
	placeMount = "{mount}"
	placeFD    = "{fd}"
)

// Sandbox says in which namespaces the program runs.
type Sandbox string

// The kinds of sandbox.
const (
	SandboxAuto      Sandbox = "auto"      // namespaces if the system allows them
	SandboxNamespace Sandbox = "namespace" // or Mount fails
	SandboxNone      Sandbox = "none"
)

// Options say what to start.
type Options struct {
	// Args are the program and its arguments. "{mount}" stands for an empty directory that is made for it, the
	// mount point. "{fd}" is the number of a descriptor that the program inherits as its open /dev/fuse: with
	// libfuse 3.3 or later "/dev/fd/{fd}" is a mount point. Then the program need not call mount(2).
	Args []string
	// Env is the program's environment; nil is this process's, without what a service manager says to it.
	Env []string
	// Stdin is the program's standard input; nil is /dev/null.
	Stdin *os.File

	Sandbox Sandbox // "" is SandboxAuto
	// NoNetwork gives the program a network namespace with nothing in it. It needs a sandbox.
	NoNetwork bool
	// Capabilities are numbers of those that the program keeps if this process has them (CAP_CHOWN is 0). Users other
	// than root have none to give. With CAP_SYS_ADMIN it can mount other things, in its sandbox, which some programs need
	// (lxcfs); without a sandbox it does not get that one.
	Capabilities []uintptr

	// Self has each request name the process of the program that has mounted as the one that asks (relay.Mounted.Process), for
	// programs that look for it in /proc. Otherwise none is named. It needs a /proc of the program's pid namespace, and
	// a program that stays in the foreground and mounts by itself.
	Self bool

	// StartTimeout is how long the program may take until it mounts. 0 is a minute.
	StartTimeout time.Duration
	// Grace is how long it may take to end when its socket is closed, or after SIGTERM. 0 is 10 seconds.
	Grace time.Duration

	// Log gets what the program prints, and what happens to it; nil is slog.Default().
	Log *slog.Logger
}

// check fills in defaults and tells what is wrong.
func (o *Options) check() error {
	if len(o.Args) == 0 {
		return errors.New("no program was given")
	}
	switch o.Sandbox {
	case "":
		o.Sandbox = SandboxAuto
	case SandboxAuto, SandboxNamespace:
	case SandboxNone:
		if o.NoNetwork {
			return errors.New("a program without a sandbox can't be kept from the network")
		}
	default:
		return fmt.Errorf("sandbox %q: want %s, %s or %s", o.Sandbox, SandboxAuto, SandboxNamespace, SandboxNone)
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = time.Minute
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Env == nil {
		o.Env = ownEnviron()
	}
	path, err := exec.LookPath(o.Args[0])
	if err != nil {
		var e *exec.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return fmt.Errorf("%s: %w: is the program installed?", o.Args[0], err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	o.Args = append([]string{path}, o.Args[1:]...)
	return nil
}

// inherits reports whether the program gets its descriptor by inheritance.
func (o *Options) inherits() bool {
	for _, a := range o.Args[1:] {
		if strings.Contains(a, placeFD) {
			return true
		}
	}
	return false
}

// admin reports whether the program may mount in a namespace of its own.
func (o *Options) admin(namespace bool) bool {
	return namespace && slices.Contains(o.Capabilities, unix.CAP_SYS_ADMIN)
}

// name is what messages call the program.
func (o *Options) name() string { return filepath.Base(o.Args[0]) }

// managers are variables with which a service manager speaks to the process that it has started.
var managers = []string{"NOTIFY_SOCKET=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES=", "WATCHDOG_PID=", "WATCHDOG_USEC="}

// ownEnviron is this process's environment, without what concerns only this process.
func ownEnviron() (env []string) {
next:
	for _, v := range os.Environ() {
		for _, m := range managers {
			if strings.HasPrefix(v, m) {
				continue next
			}
		}
		env = append(env, v)
	}
	return env
}
