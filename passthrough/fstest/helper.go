package fstest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// helperEnv, in the environment, makes a program that has this package a helper: another
// process, which takes locks on the file that the variable names.
const helperEnv = "FSTEST_LOCK_HELPER"

func init() {
	if path := os.Getenv(helperEnv); path != "" {
		os.Exit(lockHelper(path))
	}
}

// lockHelper obeys one command a line and answers with one line: the error, or "ok".
// It ends, and with it its locks, with its input.
func lockHelper(path string) int {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var cmd, typ int
		var start, length int64
		if _, err := fmt.Sscan(in.Text(), &cmd, &typ, &start, &length); err != nil {
			fmt.Println(err)
			continue
		}
		lk := unix.Flock_t{Type: int16(typ), Start: start, Len: length}
		if err := unix.FcntlFlock(uintptr(fd), cmd, &lk); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("ok %d %d %d\n", lk.Type, lk.Start, lk.Len)
	}
	return 0
}

// process is a running helper.
type process struct {
	e   *env
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (e *env) process(name string) *process {
	e.Helper()
	p := &process{e: e, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), helperEnv+"="+e.path(name))
	p.cmd.Stderr = os.Stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	e.must(err)
	out, err := p.cmd.StdoutPipe()
	e.must(err)
	p.out = bufio.NewReader(out)
	e.must(p.cmd.Start())
	e.Cleanup(p.end)
	return p
}

// fcntl has the helper do fcntl(cmd) with a lock, and returns its answer.
func (p *process) fcntl(cmd int, typ int16, start, length int64) string {
	p.e.Helper()
	p.send(cmd, typ, start, length)
	return p.answer()
}

func (p *process) send(cmd int, typ int16, start, length int64) {
	p.e.Helper()
	_, err := fmt.Fprintln(p.in, cmd, typ, start, length)
	p.e.must(err)
}

func (p *process) answer() string {
	p.e.Helper()
	line, err := p.out.ReadString('\n')
	p.e.must(err)
	return strings.TrimSpace(line)
}

// end ends the process.
func (p *process) end() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}
