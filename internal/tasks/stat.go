package tasks

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Stat is what the kernel tells of a process or thread in its file stat, see proc_pid_stat(5).
type Stat struct {
	State   byte   // R, S, D, T, Z, ...
	Parent  int    // process
	Flags   uint64 // the kernel's PF_...
	Threads int    // of the process
	// Exit is how it has ended, as wait(2) tells it. It is 0 while it runs, and for those who may not trace it.
	Exit uint32
}

// Exiting reports whether a thread runs no code of the program and no system call any more.
func (s Stat) Exiting() bool {
	const exiting = 0x4 // PF_EXITING
	return s.Flags&exiting != 0
}

// Numbers of fields, as proc_pid_stat(5) has them.
const (
	fieldState   = 3
	fieldParent  = 4
	fieldFlags   = 9
	fieldThreads = 20
	fieldExit    = 52
)

// ParseStat reads a file stat. A field that is missing or malformed is 0. It returns false if there is not even a state.
func ParseStat(b []byte) (s Stat, ok bool) {
	// The name, in parentheses, may have any character in it.
	name := bytes.LastIndexByte(b, ')')
	if name < 0 {
		return Stat{}, false
	}
	fields := bytes.Fields(b[name+1:])
	if len(fields) == 0 || len(fields[0]) != 1 {
		return Stat{}, false
	}
	number := func(field int) uint64 {
		if field -= fieldState; field >= len(fields) {
			return 0
		}
		n, _ := strconv.ParseUint(string(fields[field]), 10, 64)
		return n
	}
	return Stat{
		State: fields[0][0], Parent: int(number(fieldParent)), Flags: number(fieldFlags),
		Threads: int(number(fieldThreads)), Exit: uint32(number(fieldExit)),
	}, true
}

// StatOf is the Stat of a process. It returns false if there is no such process, or it is another user's and hidden.
func StatOf(pid int) (Stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, false
	}
	return ParseStat(b)
}

// Descendants are the children of a process, theirs, and so on, as far as /proc shows them.
func Descendants(pid int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, ok := StatOf(child); ok && s.Parent > 0 {
			children[s.Parent] = append(children[s.Parent], child)
		}
	}
	all := children[pid]
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
