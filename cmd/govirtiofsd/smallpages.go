package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the kernel uses huge pages without being asked (transparent_hugepage/enabled is
// "always"), a Go program that uses some hundred KiB of its heap has 4 MiB of it. There may
// be hundreds of daemons on a host. So the sandboxed process starts without huge pages. What
// it has mapped when it is ready stays with small pages; guest memory and a heap that grows
// may have huge ones.

// hugePage is the size of a huge page, at least.
const hugePage = 2 << 20

// smallPages turns huge pages off for this process, from now on, and for those that it starts,
// from their start on.
func smallPages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }

// allowHugePages ends what smallPages has begun, when the process has what it needs and
// before the filter. maps is /proc/self/maps, opened while there was a /proc.
func allowHugePages(maps io.Reader) error {
	if err := adviseSmall(maps); err != nil {
		return err
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0))
}

// adviseSmall marks the process's own memory as maps lists it.
func adviseSmall(maps io.Reader) error {
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to, offset, inode uint64
		var access, device string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d", &from, &to, &access, &offset, &device, &inode); n < 6 {
			return fmt.Errorf("maps: %q", lines.Text())
		}
		if inode != 0 || to-from < hugePage || !strings.HasPrefix(access, "rw") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_NOHUGEPAGE); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return lines.Err()
}
