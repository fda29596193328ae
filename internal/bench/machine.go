package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes the machine that figures come from.
type Machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"` // that this process may use
	Arch   string `json:"arch"`
	Kernel string `json:"kernel"`
	FS     string `json:"file_system"` // of the shared directory
}

// ThisMachine describes the machine and the file system that dir is on.
func ThisMachine(dir string) Machine {
	m := Machine{CPU: "unknown", CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Kernel: "unknown"}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(b), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.FS = fileSystem(dir)
	return m
}

// fileSystem names the common ones.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return "unknown"
	}
	names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", 0x2fc12fc1: "zfs"}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d CPU(s), Linux %s, %s", m.CPU, m.CPUs, m.Kernel, m.FS)
}
