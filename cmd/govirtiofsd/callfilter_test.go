package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// outsideSystemService are the system calls that systemd 252 knows and that are not in its
// group @system-service: SystemCallFilter=@system-service ends a process at these.
var outsideSystemService = []uint32{
	unix.SYS_ACCT, unix.SYS_ADJTIMEX, unix.SYS_BPF, unix.SYS_CHROOT, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME,
	unix.SYS_DELETE_MODULE, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK, unix.SYS_FINIT_MODULE, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_INIT_MODULE, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_KEXEC_LOAD, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF,
	unix.SYS_LOOKUP_DCOOKIE, unix.SYS_MEMFD_SECRET, unix.SYS_MINCORE, unix.SYS_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_OPEN_TREE, unix.SYS_PERF_EVENT_OPEN, unix.SYS_PIDFD_GETFD,
	unix.SYS_PIVOT_ROOT, unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT, unix.SYS_PROCESS_MRELEASE,
	unix.SYS_PTRACE, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_REBOOT, unix.SYS_SECCOMP, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETHOSTNAME, unix.SYS_SETTIMEOFDAY, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_SYSLOG, unix.SYS_UMOUNT2,
	unix.SYS_VHANGUP,
}

// mountCalls are those of @mount among them.
var mountCalls = []uint32{
	unix.SYS_CHROOT, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_MOUNT,
	unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_PIVOT_ROOT, unix.SYS_UMOUNT2,
}

// filterEnv has this test binary put itself under a filter and become another program:
// what becomes of the calls, and which are allowed all the same.
const filterEnv = "GOVIRTIOFSD_TEST_FILTER"

func init() {
	if s := os.Getenv(filterEnv); s != "" {
		runtime.LockOSThread()
		fmt.Fprintln(os.Stderr, execUnderFilter(s))
		os.Exit(100)
	}
}

func execUnderFilter(spec string) error {
	action, extra, _ := strings.Cut(spec, ",")
	verdict := map[string]uint32{
		"kill": unix.SECCOMP_RET_KILL_PROCESS, "EPERM": unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), "ENOSYS": unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS),
	}[action]
	allowed := map[uint32]bool{}
	if extra == "@mount" {
		for _, n := range mountCalls {
			allowed[n] = true
		}
	}
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for _, n := range outsideSystemService {
		if !allowed[n] {
			prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: n},
				unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict})
		}
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return err
	}
	_ = os.Unsetenv(filterEnv)
	return unix.Exec(os.Args[0], os.Args, os.Environ())
}

// underFilter starts a command under a filter, see filterEnv.
func underFilter(t *testing.T, filter string) func(*exec.Cmd) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(cmd *exec.Cmd) {
		cmd.Args[0] = program
		cmd.Path = self
		cmd.Env = append(cmd.Env, filterEnv+"="+filter)
	}
}

// TestIntegrationSystemService: under SystemCallFilter=@system-service the daemon serves,
// with what can be had, and says once what it does without.
func TestIntegrationSystemService(t *testing.T) {
	const says = "A system call filter is in force"
	for _, test := range []struct {
		filter, box string
		warns       bool
	}{
		{"kill", "none", true},
		{"kill,@mount", "none", true}, {"kill,@mount", "chroot", true}, {"kill,@mount", "namespace", true},
		// Calls that fail are as on an old kernel.
		{"EPERM", "none", false}, {"ENOSYS", "none", false}, {"EPERM,@mount", "namespace", false},
	} {
		t.Run(test.filter+"/"+test.box, func(t *testing.T) {
			if test.box == "chroot" {
				guest.NeedRoot(t)
			}
			dir := tempDir(t)
			if err := os.WriteFile(dir+"/file", []byte("data"), 0o644); err != nil {
				t.Fatal(err)
			}
			d := startDaemon(t, underFilter(t, test.filter), "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+test.box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			entry, err := c.Lookup(1, "file")
			if err != nil {
				t.Fatal(err)
			}
			if got := readFile(t, c, entry.NodeID); got != "data" {
				t.Errorf("got %q", got)
			}
			// Its own filter is in force on top of the other.
			for _, pid := range processTree(t, d.cmd.Process.Pid) {
				if n := number(pid, "status", "Seccomp_filters"); pid != d.cmd.Process.Pid && n < 2 {
					t.Errorf("process %d is under %d filters", pid, n)
				}
			}
			c.Close()
			d.wantStatus(exitOK)
			if n := strings.Count(strings.Join(d.said, "\n"), says); n != map[bool]int{true: 1}[test.warns] {
				t.Errorf("said %d times:\n%s", n, strings.Join(d.said, "\n"))
			}
		})
	}
}

// processTree is a process and its child, if it has one.
func processTree(t *testing.T, pid int) []int {
	t.Helper()
	return append(daemontest.Children(t, pid), pid)
}

// TestIntegrationForbidden: what an option asks for and a filter forbids is an error that
// says so.
func TestIntegrationForbidden(t *testing.T) {
	for _, args := range [][]string{
		{"--sandbox=namespace"}, {"--sandbox=chroot"},
		{"--sandbox=none", "--landlock=always"}, {"--sandbox=none", "--inode-file-handles=mandatory"},
	} {
		dir := tempDir(t)
		d := startDaemon(t, underFilter(t, "kill"), append([]string{"--socket-path", dir + "/s", "--shared-dir", dir}, args...)...)
		d.wantStatus(exitStart)
		if said := strings.Join(d.said, "\n"); !strings.Contains(said, "a system call filter is in force") {
			t.Errorf("%v:\n%s", args, said)
		}
		wantNoFiles(t, dir+"/s")
	}
}
