// Package tasks says what processes and their threads do at the moment, as /proc tells it. For the threads of a process
// that can't see /proc any more, a descriptor of /proc/PID/task is enough.
package tasks

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// State is what a thread does.
type State struct {
	Letter  byte   // of proc_pid_stat(5): R, S, D, ...
	Call    int    // number of the system call that it is in; -1 is none, or not known
	Args    string // of the call, as the kernel shows them; they distinguish two calls
	Channel string // function of the kernel in which it sleeps; "" is not known
}

// Dir is a descriptor of /proc/PID/task of a process, opened in any mode. With a
// negative one, nothing is known.
type Dir int

// Text says for messages what a thread does, by its number in its own process namespace (gettid(2)):
// "thread 123 is in mkdirat, state D, at percpu_rwsem_wait". It is "" if nothing is known.
func (d Dir) Text(tid int) string {
	s, ok := d.State(tid)
	if !ok {
		return ""
	}
	return fmt.Sprintf("thread %d is %s", tid, s)
}

// String is "in mkdirat, state D, at percpu_rwsem_wait".
func (s State) String() string {
	var parts []string
	if s.Call >= 0 {
		parts = append(parts, "in "+CallName(s.Call))
	}
	parts = append(parts, fmt.Sprintf("in state %c", s.Letter))
	if s.Channel != "" {
		parts = append(parts, "at "+s.Channel)
	}
	return strings.Join(parts, ", ")
}

// State is what a thread does. It returns false if there is no such thread.
func (d Dir) State(tid int) (State, bool) {
	entry, ok := d.find(tid)
	if !ok {
		return State{}, false
	}
	return d.Entry(entry)
}

// Entry is the state of the thread with a name in the directory.
func (d Dir) Entry(name string) (s State, ok bool) {
	stat, ok := ParseStat(d.read(name + "/stat"))
	if !ok {
		return State{}, false
	}
	s.Letter, s.Call = stat.State, -1
	number, args, _ := strings.Cut(strings.TrimSpace(string(d.read(name+"/syscall"))), " ")
	if n, err := strconv.Atoi(number); err == nil {
		s.Call, s.Args = n, args
	}
	if w := strings.TrimSpace(string(d.read(name + "/wchan"))); w != "0" {
		s.Channel = w
	}
	return s, true
}

// Entries are the names of all threads.
func (d Dir) Entries() []string {
	fd, err := unix.Openat(int(d), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "task")
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return names
}

// find is the name of a thread in the directory. The names are numbers of the process namespace
// in which /proc was mounted.
func (d Dir) find(tid int) (string, bool) {
	if d < 0 {
		return "", false
	}
	for _, name := range d.Entries() {
		if innermost(d.read(name+"/status")) == tid {
			return name, true
		}
	}
	return "", false
}

// innermost is the number of a thread in its own process namespace, by /proc/PID/status. 0 means
// that it is not known.
func innermost(status []byte) int {
	_, rest, _ := bytes.Cut(status, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[len(fields)-1]))
	return n
}

// mostRead is larger than any of the files.
const mostRead = 16 << 10

func (d Dir) read(name string) []byte {
	fd, err := unix.Openat(int(d), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, mostRead))
	return b
}
