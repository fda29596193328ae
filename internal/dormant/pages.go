package dormant

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// small says that the entry point has turned huge pages off.
var small bool

// hugePage is the size of a huge page, at least.
const hugePage = 2 << 20

// maps is /proc/self/maps, opened while there is a /proc.
var maps *os.File

// SmallPages says that AllowHugePages will be called, perhaps where there is no /proc.
func SmallPages() {
	if small {
		maps, _ = os.Open("/proc/self/maps")
	}
}

// AllowHugePages ends what the entry point of this package has begun, which is that nothing
// is made of huge pages. Where the kernel uses them without being asked
// (transparent_hugepage/enabled is "always"), a daemon that uses some hundred KiB of a heap of
// 8 MiB would have all of it. What the process has mapped by now, once it is ready, stays
// with small pages; guest memory and a heap that grows may have huge ones.
//
// If that is not possible it is an error, and the process goes on with small pages only.
// With another entry point nothing is done.
func AllowHugePages() error {
	if !small {
		return nil
	}
	small = false
	if maps == nil {
		return os.ErrNotExist
	}
	defer maps.Close()
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
		if err := adviseNoHuge(uintptr(from), uintptr(to-from)); err != nil {
			return os.NewSyscallError("madvise", err)
		}
	}
	return lines.Err()
}

func adviseNoHuge(addr, size uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, addr, size, unix.MADV_NOHUGEPAGE); errno != 0 {
		return errno
	}
	return nil
}
