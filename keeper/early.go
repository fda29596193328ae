package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// A worker that dies is replaced when none of its threads runs any more, in user space or in a system call. The
// kernel says so much later, when it has taken the worker's memory apart too: see Owner. What
// the word of an Owner says is a hint, as a worker may write there what it likes. So the keeper kills the worker,
// after which it can start no more threads, and looks at each that there is.

// patrol is how the keeper learns that a worker is about to be gone. It is nil without a word.
type patrol struct {
	word *uint32
	proc *os.File // /proc/PID, which is never that of another process

	mu     sync.Mutex // held by who looks at the process, and by who reaps it
	reaped atomic.Bool
	heard  atomic.Bool // await needs the word no more, which may be the next worker's
}

// newPatrol is called before the process can have been reaped.
func newPatrol(word *uint32, pid int) *patrol {
	if word == nil {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &patrol{word: word, proc: os.NewFile(uintptr(fd), "process")}
}

// await waits until the word has no owner any more. It returns false if the process is reaped before.
func (p *patrol) await() bool {
	for {
		v := atomic.LoadUint32(p.word)
		if p.reaped.Load() {
			return false
		}
		if v&futexOwnerDied != 0 {
			p.heard.Store(true)
			return true
		}
		waitFutex(p.word, v)
	}
}

// reap calls f, which reaps the process, and ends await.
func (p *patrol) reap(f func()) {
	if p == nil {
		f()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.reaped.Store(true)
	// The next worker is started only after this, or when stopped, which comes after heard, has seen that
	// the process is not reaped.
	if !p.heard.Load() {
		atomic.StoreUint32(p.word, atomic.LoadUint32(p.word)^futexOwnerDied) // another value than the one await waits for
		wakeFutex(p.word)
	}
	_ = p.proc.Close()
}

// Waiting for threads that are killed. One that is in a system call finishes it first.
const (
	pollThreads = 200 * time.Microsecond
	mostPolls   = 10000
)

// stopped waits until no thread of a worker that was killed runs any more, and returns how it has ended. It
// returns false if that can't be told: then the keeper waits for the kernel.
func (p *patrol) stopped() (syscall.WaitStatus, bool) {
	for range mostPolls {
		p.mu.Lock()
		if p.reaped.Load() {
			p.mu.Unlock()
			return 0, false
		}
		running, err := p.running()
		leader, _ := p.stat("stat")
		p.mu.Unlock()
		switch {
		case err != nil:
			return 0, false
		case !running:
			return syscall.WaitStatus(leader.Exit), leader.Exit != 0 // 0 is also what is shown to those who may not see it
		}
		time.Sleep(pollThreads)
	}
	return 0, false
}

// running reports whether a thread of a worker that was killed may still run. A list of threads may lack one
// if others are reaped while it is read, so it counts only if their number is the same before and after it: no thread
// is new.
func (p *patrol) running() (bool, error) {
	before, _ := p.stat("stat")
	threads, err := p.threads()
	if err == nil && len(threads) == 0 {
		err = errors.New("no threads")
	}
	for _, name := range threads {
		if s, gone := p.stat("task/" + name + "/stat"); !gone && !s.Exiting() {
			return true, err
		}
	}
	after, _ := p.stat("stat")
	return before.Threads != len(threads) || after.Threads != len(threads), err
}

// threads are the ids of all threads that are not reaped, see running.
func (p *patrol) threads() ([]string, error) {
	dir, err := p.open("task", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

func (p *patrol) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(p.proc.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// stat reads a thread's status, or says that the thread is gone.
func (p *patrol) stat(name string) (s tasks.Stat, gone bool) {
	f, err := p.open(name, 0)
	if err != nil {
		return tasks.Stat{}, errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return tasks.Stat{}, errors.Is(err, unix.ESRCH)
	}
	s, _ = tasks.ParseStat(b) // nothing of it: it runs
	return s, false
}

// describe says how a process has ended, as os.ProcessState does.
func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		text := "signal: " + s.Signal().String()
		if s.CoreDump() {
			text += " (core dumped)"
		}
		return text
	}
	return "exit status " + strconv.Itoa(s.ExitStatus())
}
