package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/relay"
)

// Errors of Mount.
var (
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("closed")
	// ErrTwice says that the program has mounted more than once. It is of no use to start it again.
	ErrTwice = errors.New("the program mounts a second time")
	// errEnded says that no process of the program is left.
	errEnded = errors.New("the program has ended")
)

// Program is a FUSE program, which runs once at most at the same time. It is a relay.Source. Its methods may be called
// by several goroutines.
type Program struct {
	o     Options
	place *place   // has the mount point in it
	point *os.Root // the mount point, wherever the program moves it

	mu      sync.Mutex // held while the program is started or ended
	now     *instance
	failure error // why it must not be started again
	starts  int   // in a row, each soon after the one before
	hidden  []string
	last    time.Time

	closing   context.Context
	close     context.CancelFunc
	closeOnce sync.Once
}

// New checks the options and makes a mount point, but starts nothing.
func New(o Options) (*Program, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	place, err := newPlace()
	if err != nil {
		return nil, err
	}
	// A program that is started by root may change to another user.
	p := &Program{o: o, place: place}
	err = errors.Join(os.Chmod(place.path, 0o711), os.Mkdir(p.MountPoint(), 0o755), os.Mkdir(p.EmptyDir(), 0o755))
	if err == nil {
		p.point, err = os.OpenRoot(p.MountPoint())
	}
	if err != nil {
		place.remove()
		return nil, err
	}
	p.closing, p.close = context.WithCancel(context.Background())
	return p, nil
}

// MountPoint is the directory that "{mount}" stands for. It is empty, and nothing is ever mounted there.
func (p *Program) MountPoint() string { return filepath.Join(p.place.path, mountName) }

// EmptyDir is a directory with nothing in it, which goes with Close.
func (p *Program) EmptyDir() string { return filepath.Join(p.place.path, emptyName) }

// Hide is called after something was mounted on dir, an absolute path: programs that are started from now on do not have that
// mount in their namespace. A copy of it there would keep the file system alive when it is unmounted here. Programs of
// users other than root have it all the same: the kernel does not let them take away what root has mounted.
func (p *Program) Hide(dir string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hidden = append(p.hidden, dir)
}

// Back-off between starts.
const (
	firstDelay = 100 * time.Millisecond
	mostDelay  = 10 * time.Second
	// restartGrace is how long a program that is to be started again may take to end: clients wait for it.
	restartGrace = 2 * time.Second
	goodTime     = 30 * time.Second // a program that has run for so long starts from firstDelay again
)

// delay is how long to wait before the next start, the n-th in a row.
func delay(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := firstDelay
	for i := 1; i < n && d < mostDelay; i++ {
		d *= 2
	}
	return min(d, mostDelay)
}

// Mount implements relay.Source. Its errors are for the user, in one line. When it has failed because the program has
// done what can't be served, such as a second mount, later calls fail at once.
func (p *Program) Mount(ctx context.Context) (*relay.Mounted, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.closing, func() { cancel(ErrClosed) })()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(min(p.o.Grace, restartGrace))
	if time.Since(p.last) > goodTime {
		p.starts = 0
	}
	if p.failure != nil {
		return nil, p.failure
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", p.o.name(), context.Cause(ctx))
	case <-time.After(delay(p.starts)):
	}
	p.starts++
	i, err := p.start()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.o.name(), err)
	}
	p.now, p.last = i, time.Now()
	m, err := i.wait(ctx, p.o.StartTimeout)
	if err != nil {
		p.end(p.o.Grace)
		i.discard()
		return nil, fmt.Errorf("%s: %w", p.o.name(), err)
	}
	p.last = time.Now()
	return m, nil
}

// end ends the program that runs now, and waits for that.
func (p *Program) end(grace time.Duration) {
	if p.now == nil {
		return
	}
	p.now.stop(grace)
	p.failure = p.now.fatal()
	if p.failure != nil {
		p.failure = fmt.Errorf("%s: %w", p.o.name(), p.failure)
	}
	p.now = nil
	entries, _ := fs.ReadDir(p.point.FS(), ".")
	for _, e := range entries { // what was made there to please the program, and what the program has left
		_ = p.point.RemoveAll(e.Name())
	}
}

// Close ends the program, waits until no process of it is left, and removes the mount point. A Mount under way fails.
func (p *Program) Close() error {
	p.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(p.o.Grace)
	p.closeOnce.Do(func() {
		_ = p.point.Close()
		p.place.remove()
	})
	return nil
}

// Err is why the program that Mount has started last has ended, or is going to; nil while nothing has happened to it.
func (p *Program) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return p.failure
	}
	if err := p.now.reason(); err != nil {
		return fmt.Errorf("%s: %w", p.o.name(), err)
	}
	return nil
}

// Send buffers. A message that is larger than the sender's buffer is lost.
const (
	wantBuffer = 2<<20 + 64<<10 // 1 MiB of data and what the kernel counts beside it
)

// socketPair makes the two ends, each with as large a buffer as this process may have.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, wantBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, wantBuffer)
		}
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "FUSE program"), os.NewFile(uintptr(fds[1]), "FUSE program's end"), nil
}
