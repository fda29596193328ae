package dormant

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// small says that the entry point has turned huge pages off.
var small bool

// hugePage is the size of a huge page, at least.
const hugePage = 2 << 20

// SmallPages keeps the kernel from making what the runtime has by now of huge pages, where
// it does so without being asked (transparent_hugepage/enabled is "always"): a daemon that
// uses some hundred KiB of a 4 MiB heap would have all of it. The entry point has turned
// huge pages off for the process before the runtime touched anything; they are turned on
// again, for guest memory and for a heap that grows. Without that entry point nothing is
// done.
func SmallPages() error {
	if !small {
		return nil
	}
	small = false
	mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || strings.Contains(string(mode), "[always]") {
		if err := adviseSmall(); err != nil {
			return err // they stay off
		}
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0))
}

// adviseSmall marks the process's own memory. What the runtime maps later is not marked.
func adviseSmall() error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
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
