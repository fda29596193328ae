package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command is a prepared guest.
type command struct {
	path    string
	args    []string
	env     []string // in addition to PATH and TERM
	status  string   // file that gets the report of init.sh
	archive string   // tar file that gets /run/host, or ""
	hostDir string   // where the archive is unpacked
}

// VM is a running guest.
type VM struct {
	command  *command
	dir      string // of this run, removed at its end
	cmd      *exec.Cmd
	console  console // of the guest
	messages console // of the VMM; in the console they would break the guest's lines
	timeout  time.Duration
	start    time.Time

	cancel context.CancelFunc
	done   chan struct{} // closed when the fields below are set
	result Result
	err    error
}

// Start boots a guest and returns while it runs. The guest is killed when ctx
// ends, after its Options.Timeout, and when this process dies. The caller must
// call Wait, or be sure that ctx ends.
func Start(ctx context.Context, kind Kind, o Options) (*VM, error) {
	if err := o.check(kind); err != nil {
		return nil, err
	}
	for _, s := range o.Shares {
		if err := waitListening(ctx, s.Socket); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(tempRoot, "guest-")
	if err != nil {
		return nil, err
	}
	vm, err := launch(ctx, dir, kind, &o)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return vm, nil
}

// launch prepares the guest in dir and starts its process.
func launch(ctx context.Context, dir string, kind Kind, o *Options) (*VM, error) {
	var c *command
	var err error
	if kind == UML {
		c, err = prepareUML(dir, o)
	} else {
		c, err = prepareQEMU(dir, kind, o)
	}
	if err != nil {
		return nil, err
	}
	vm := &VM{command: c, dir: dir, timeout: o.Timeout, start: time.Now(), done: make(chan struct{})}
	vm.cmd = exec.Command(c.path, c.args...)
	vm.cmd.Dir = "/"
	vm.cmd.Env = append([]string{"PATH=/usr/bin:/bin", "TERM=" + os.Getenv("TERM")}, c.env...)
	// The process group lets us end the helpers of a UML kernel, too. A guest
	// on our terminal must stay in our group to be able to read.
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !o.Interactive, Pdeathsig: syscall.SIGKILL}
	if o.Interactive {
		vm.cmd.Stdin, vm.cmd.Stdout, vm.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	} else {
		vm.cmd.Stdout, vm.cmd.Stderr = &vm.console, &vm.messages
	}
	// A helper that outlives the VMM must not make Wait wait for its output.
	vm.cmd.WaitDelay = 5 * time.Second
	ctx, vm.cancel = context.WithTimeout(ctx, o.Timeout)
	started := make(chan error)
	go vm.supervise(ctx, started)
	if err := <-started; err != nil {
		vm.cancel()
		return nil, fmt.Errorf("guest: %w", err)
	}
	return vm, nil
}

// supervise runs the process from its start to its end. It keeps its thread because
// the kernel sends the parent-death signal when the starting thread ends.
func (vm *VM) supervise(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := vm.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, vm.signalAll)
	waitErr := vm.cmd.Wait()
	stop()
	vm.signalAll()
	vm.finish(ctx, waitErr)
	os.RemoveAll(vm.dir)
	vm.cancel()
	close(vm.done)
}

// signalAll kills what is left of the guest's process group.
func (vm *VM) signalAll() {
	if vm.cmd.SysProcAttr.Setpgid {
		_ = syscall.Kill(-vm.cmd.Process.Pid, syscall.SIGKILL)
		return
	}
	_ = vm.cmd.Process.Kill()
}

// finish sets the result.
func (vm *VM) finish(ctx context.Context, waitErr error) {
	vm.result.Duration = time.Since(vm.start)
	vm.result.Output = scriptOutput(vm.console.text())
	vm.result.Console = vm.console.text() + vm.messages.text()
	vm.result.Status, vm.err = readStatus(vm.command.status)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		// There may be a status: then the guest hangs during its shutdown.
		vm.err = fmt.Errorf("%w (%v)", ErrTimeout, vm.timeout)
	case errors.Is(vm.err, ErrNoStatus) && ctx.Err() != nil:
		vm.err = fmt.Errorf("%w: %w", ErrNoStatus, ctx.Err())
	case errors.Is(vm.err, ErrNoStatus):
		vm.err = fmt.Errorf("%w: %s: %v\n%s", ErrNoStatus, vm.command.path, waitErr, tail(vm.result.Console))
	}
	if vm.err == nil && vm.command.archive != "" {
		vm.err = unpackResults(vm.command.archive, vm.command.hostDir)
	}
}

// Wait waits for the end of the guest, as Run does. It may be called again.
func (vm *VM) Wait() (Result, error) {
	<-vm.done
	return vm.result, vm.err
}

// Kill ends the guest at once, like a power cut, and waits for its end. Wait then
// returns ErrNoStatus, unless the guest had ended by itself.
func (vm *VM) Kill() {
	vm.cancel()
	<-vm.done
}

// Output returns what the script has written so far.
func (vm *VM) Output() string { return scriptOutput(vm.console.text()) }

// PID returns the process id of the VMM or of the UML kernel.
func (vm *VM) PID() int { return vm.cmd.Process.Pid }

// WaitOutput waits until text has appeared on the console, for example a line that
// the script prints. It returns an error if the guest or ctx ends first.
func (vm *VM) WaitOutput(ctx context.Context, text string) error {
	for {
		changed := vm.console.changed()
		if strings.Contains(vm.console.text(), text) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("guest: %q not seen: %w", text, ctx.Err())
		case <-vm.done:
			if strings.Contains(vm.console.text(), text) {
				return nil
			}
			return fmt.Errorf("guest: ended before %q was seen", text)
		}
	}
}

// readStatus reads what init.sh reported.
func readStatus(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	words := strings.Fields(string(data))
	if len(words) != 2 {
		return 0, ErrNoStatus
	}
	if words[0] == "mount" {
		return 0, fmt.Errorf("%w: %s", ErrMount, words[1])
	}
	status, err := strconv.Atoi(words[1])
	if err != nil {
		return 0, ErrNoStatus
	}
	return status, nil
}
