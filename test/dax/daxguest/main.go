// Daxguest runs in a guest and examines files of a share through mappings and system
// calls, for the integration tests of DAX. Each command prints its results. The exit
// status says whether all was right.
package main

import (
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// commands by name; each gets its arguments.
var commands = map[string]struct {
	usage string
	args  int
	run   func(args []string) error
}{
	"sums":   {"DIR: sums of all files, by read and by mmap", 1, sums},
	"make":   {"DIR SEED COUNT MOST all|plain: files of random sizes and their sums, written in all ways or not by mmap", 5, makeFiles},
	"dax":    {"FILE yes|no: whether the kernel has the file as DAX", 2, checkDAX},
	"turns":  {"FILE ME PLAYERS ROUNDS: write to a mapping in turns with others", 4, turns},
	"verify": {"FILE SIZE STEPS SEED: random writes and reads of one file", 4, verify},
	"churn":  {"DIR PASSES WORKERS SEED: map stamped files and check their stamps", 4, churn},
	"rate":   {"FILE SECONDS: how often the file can be mapped and touched", 2, rate},
	"peek":   {"FILE SECONDS: read a mapping before and after a while", 2, peek},
	"echo":   {"FILE OTHER: wait for orders in a mapping, and repeat them", 2, echo},
	"touch":  {"DIR yes|no: read all files, by mmap if yes, and stay", 2, touch},
}

func main() {
	if len(os.Args) > 1 {
		if c, ok := commands[os.Args[1]]; ok && len(os.Args) == c.args+2 {
			if err := c.run(os.Args[2:]); err != nil {
				fmt.Println("daxguest:", err)
				os.Exit(1)
			}
			return
		}
	}
	for name, c := range commands {
		fmt.Println("daxguest", name, c.usage)
	}
	os.Exit(2)
}

// number parses an argument. It returns 0 for anything but a number, and no
// command accepts 0.
func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// mapping maps n bytes of a file.
func mapping(f *os.File, n int, write bool) ([]byte, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	b, err := unix.Mmap(int(f.Fd()), 0, n, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", f.Name(), err)
	}
	return b, nil
}

// mapFile maps a whole file.
func mapFile(path string, write bool) ([]byte, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return mapping(f, int(st.Size()), write)
}

// isDAX asks the kernel whether a file is mapped by DAX.
func isDAX(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st)
	return st.Attributes&unix.STATX_ATTR_DAX != 0, err
}

func checkDAX(args []string) error {
	dax, err := isDAX(args[0])
	if err == nil && dax != (args[1] == "yes") {
		err = fmt.Errorf("%s: DAX is %v", args[0], dax)
	}
	return err
}

// word is a word in a mapping that other processes write.
func word(b []byte, i int) *uint64 { return (*uint64)(unsafe.Pointer(&b[8*i])) }
