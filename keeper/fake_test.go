package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fakeEnv makes the test program a worker: descriptor 3 is its channel, and it does what it reads from
// standard input.
const fakeEnv = "KEEPER_TEST_WORKER"

// init keeps a worker on its first thread, for NewOwner: TestMain may find itself on another one.
func init() {
	if os.Getenv(fakeEnv) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(fakeEnv) != "" {
		fakeWorker()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patient is how long a test waits for what has to happen.
const patient = 30 * time.Second

// fakeWorker does one command a line, and answers each with a line.
func fakeWorker() {
	owner := NewOwner()
	c := NewClient(3)
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		words := strings.Fields(s.Text())
		answer, err := fakeCommand(c, owner, words)
		if err != nil {
			answer = "error " + err.Error()
		}
		fmt.Println(strings.TrimSpace("ok " + answer))
	}
}

var (
	quiet    atomic.Bool
	fakeConn int // what was accepted
)

func die() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) }

func fakeCommand(c *Client, owner *Owner, words []string) (string, error) {
	switch words[0] {
	case "receive":
		start, err := c.Receive(patient)
		if err == nil {
			err = c.Listen(func(o Order) {
				switch {
				case quiet.Load():
				case o == OrderPark:
					os.Exit(StatusParked)
				default:
					os.Exit(6 + int(o))
				}
			})
		}
		return fmt.Sprint(start.Generation, start.Limit, start.Fail, len(c.Kept())), err
	case "read": // one message of what is handed over
		var m message
		var err error
		for {
			if m, err = receive(3, func(int) {}); !errors.Is(err, unix.EAGAIN) {
				break
			}
			_ = wait(3, unix.POLLIN, patient)
		}
		return fmt.Sprint(m.op), err
	case "serving":
		return "", c.Serving()
	case "replied":
		c.Replied()
	case "keep", "keepdie": // KEY CONTENT...
		k, _ := ParseKey(words[1])
		fd, err := fakeFile(strings.Join(words[2:], " "))
		if err == nil {
			err = c.Keep(k, fd)
		}
		if words[0] == "keepdie" {
			die()
		}
		return "", err
	case "keepmany": // KIND FROM TO: one descriptor for all
		fd, err := fakeFile("many")
		var from, to uint64
		_, _ = fmt.Sscan(words[2], &from)
		_, _ = fmt.Sscan(words[3], &to)
		k, _ := ParseKey(words[1])
		for ; err == nil && from < to; from++ {
			k.ID = from
			err = c.Keep(k, fd)
		}
		return fmt.Sprint(from), err
	case "accepts":
		return fmt.Sprint(c.Accepts()), nil
	case "ask": // for a front-end, and do not wait
		c.mu.Lock()
		defer c.mu.Unlock()
		return "", c.send(&message{op: opAccept, fd: -1})
	case "accept": // and read what the front-end says
		var err error
		if fakeConn, err = c.Accept(context.Background()); err != nil {
			return "", err
		}
		if err := wait(fakeConn, unix.POLLIN, patient); err != nil {
			return "", err
		}
		b := make([]byte, 10)
		n, _, _, _, err := unix.Recvmsg(fakeConn, b, nil, unix.MSG_PEEK)
		return string(b[:max(n, 0)]), err
	case "reply":
		_, err := unix.Write(fakeConn, []byte("served"))
		return "", err
	case "drop":
		k, _ := ParseKey(words[1])
		c.Drop(k)
	case "dropmany":
		k, _ := ParseKey(words[1])
		c.DropAll(k.Kind)
	case "content": // KEY
		k, _ := ParseKey(words[1])
		fd, ok := c.Take(k)
		if !ok {
			return "none", nil
		}
		b := make([]byte, 100)
		n, err := unix.Pread(fd, b, 0)
		return string(b[:max(n, 0)]), err
	case "forge":
		return "", forge(words[1])
	case "quiet": // does not end
		quiet.Store(true)
	case "own": // the word of descriptor 4
		word, err := mapWord(4)
		if err != nil {
			return "", err
		}
		if owner.Own(word); owner == nil {
			return "", errors.New("not on the first thread")
		}
	case "pretend": // to be dead
		word, err := mapWord(4)
		if err != nil {
			return "", err
		}
		atomic.StoreUint32(word, futexOwnerDied|1)
		wakeFutex(word)
	case "die":
		die()
	case "exit":
		var status int
		_, _ = fmt.Sscan(words[1], &status)
		os.Exit(status)
	}
	return "", nil
}

// mapWord maps a file with a word.
func mapWord(fd int) (*uint32, error) {
	b, err := unix.Mmap(fd, 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*uint32)(unsafe.Pointer(&b[0])), nil
}

// newWord is a file with a word, and where it is mapped.
func newWord(t *testing.T) (*os.File, *uint32) {
	t.Helper()
	fd, err := fakeFile("\x00\x00\x00\x00")
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "word")
	t.Cleanup(func() { f.Close() })
	word, err := mapWord(fd)
	if err != nil {
		t.Fatal(err)
	}
	return f, word
}

// fakeFile is a file with this content.
func fakeFile(content string) (int, error) {
	fd, err := unix.MemfdCreate("fake", unix.MFD_CLOEXEC)
	if err == nil {
		_, err = unix.Pwrite(fd, []byte(content), 0)
	}
	return fd, err
}

// lines keeps what was logged.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "")
}

// rig is a keeper in this process, with fake workers.
type rig struct {
	t       *testing.T
	k       *Keeper
	workers chan *fake
	signals chan os.Signal
	log     *lines
	out     chan Outcome
	word    *os.File // descriptor 4 of workers; nil is none
}

// fake is a worker seen from the test.
type fake struct {
	t       *testing.T
	pid     int
	launch  Launch
	in      io.WriteCloser
	out     *bufio.Reader
	outFile *os.File
}

// newRig starts a keeper; change may change its options and clock before.
func newRig(t *testing.T, change func(*Keeper)) *rig {
	t.Helper()
	r := &rig{t: t, workers: make(chan *fake, 1000), signals: make(chan os.Signal, 10), log: &lines{}, out: make(chan Outcome, 1)}
	r.k = New(Options{
		Start: r.start, Recover: true, Limit: 100, EndGrace: time.Minute,
		Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if change != nil {
		change(r.k)
	}
	go func() {
		runtime.LockOSThread()
		r.out <- r.k.Run(r.signals)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

func (r *rig) start(l Launch) (*os.Process, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fakeEnv+"=1")
	cmd.Stdin, cmd.Stdout = inR, outW
	cmd.ExtraFiles = []*os.File{l.Channel}
	if r.word != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, r.word)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	_ = inR.Close()
	_ = outW.Close()
	if err != nil {
		return nil, err
	}
	r.workers <- &fake{t: r.t, launch: l, pid: cmd.Process.Pid, in: inW, out: bufio.NewReader(outR), outFile: outR}
	return cmd.Process, nil
}

// next is the next worker that is started.
func (r *rig) next() *fake {
	r.t.Helper()
	select {
	case f := <-r.workers:
		return f
	case out := <-r.out:
		r.t.Fatalf("no worker but the end: %+v\n%s", out, r.log)
	case <-time.After(patient):
		r.t.Fatalf("no worker\n%s", r.log)
	}
	return nil
}

// serving is the next worker when it has taken over all and says that it serves.
func (r *rig) serving() *fake {
	r.t.Helper()
	f := r.next()
	f.do("receive")
	f.do("serving")
	return f
}

// end is how the keeper ends.
func (r *rig) end() Outcome {
	r.t.Helper()
	select {
	case out := <-r.out:
		return out
	case <-time.After(patient):
		r.t.Fatalf("the keeper does not end\n%s", r.log)
	}
	return Outcome{}
}

// until waits for a condition.
func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patient); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s\n%s", what, r.log)
		}
	}
}

// do has the worker do a command and returns its answer. A worker that dies answers nothing.
func (f *fake) do(command string) string {
	f.t.Helper()
	if _, err := fmt.Fprintln(f.in, command); err != nil {
		f.t.Fatalf("%s: %v", command, err)
	}
	answer, err := f.out.ReadString('\n')
	if err != nil {
		_ = f.in.Close()
		_ = f.outFile.Close()
		return "gone"
	}
	answer = strings.TrimSpace(answer)
	if strings.HasPrefix(answer, "ok error") {
		f.t.Fatalf("%s: %s", command, answer)
	}
	return strings.TrimSpace(strings.TrimPrefix(answer, "ok"))
}

func (f *fake) want(command, answer string) {
	f.t.Helper()
	if got := f.do(command); got != answer {
		f.t.Errorf("%s: %q, want %q", command, got, answer)
	}
}
