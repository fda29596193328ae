package program_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/relay/program"
)

// asProgram has the test's executable be a FUSE program: its next argument says what it does.
const asProgram = "be-a-fuse-program"

// leftOpen is a descriptor that the test leaves open for the program to find.
const leftOpen = 77

func TestMain(m *testing.M) {
	program.RunChild()
	if len(os.Args) > 2 && os.Args[1] == asProgram {
		fuseProgram(os.Args[2], os.Args[3:])
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the processes that are started
	os.Exit(m.Run())
}

func die(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(3)
}

// fuseProgram is a program that uses /dev/fuse without a library.
func fuseProgram(what string, args []string) {
	switch what {
	case "usage":
		fmt.Println("Usage: program [options] MOUNTPOINT\n  -o OPTIONS\n  -h this text")
		os.Exit(0)
	case "status":
		die("the image is broken")
	case "nothing":
		select {}
	case "other":
		err := unix.Mount("tmpfs", args[0], "tmpfs", 0, "")
		die("%v", err)
	case "new-api":
		_, err := unix.Fsopen("fuse", 0)
		die("%v", err)
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		serveFUSE(mountFUSE(args[0]), false)
	case "inherited":
		var fd int
		if _, err := fmt.Sscanf(args[0], "/dev/fd/%d", &fd); err != nil {
			die("%v", err)
		}
		serveFUSE(fd, true)
	case "forked": // a child mounts what its parent has opened and serves
		err := unix.Exec("/bin/sh", []string{"sh", "-c", `exec 9<>/dev/fuse; "$0" ` + asProgram + ` mount-nine "$1" & exec "$0" ` + asProgram + ` inherited /dev/fd/9`,
			os.Args[0], args[0]}, os.Environ())
		die("%v", err)
	case "mount-nine":
		mountFD(9, args[0], "nowhere")
		os.Exit(0)
	case "twice":
		fd := mountFUSE(args[0])
		mountFUSE(args[0])
		serveFUSE(fd, true)
	case "background": // as daemon(3): the parent ends when the child serves
		if len(args) > 1 {
			serveFUSE(mountFUSE(args[0]), true)
		}
		cmd := exec.Command(os.Args[0], asProgram, "background", args[0], "child")
		if err := cmd.Start(); err != nil {
			die("%v", err)
		}
		time.Sleep(50 * time.Millisecond)
		os.Exit(0)
	case "children": // with processes that do not end when it does
		for range 3 {
			if err := exec.Command("sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000").Start(); err != nil {
				die("%v", err)
			}
		}
		serveFUSE(mountFUSE(args[0]), true)
	case "facts": // what it finds, in the source of its mount
		status, _ := os.ReadFile("/proc/self/status")
		var facts []string
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
				facts = append(facts, strings.Join(strings.Fields(line), ""))
			}
		}
		facts = append(facts, fmt.Sprintf("Parent:%d Self:%d.", os.Getppid(), os.Getpid()))
		_, _, vmsplice := unix.Syscall6(unix.SYS_VMSPLICE, 1, 0, 0, 0, 0, 0)
		var p [2]int
		_ = unix.Pipe2(p[:], 0)
		_, pipe := unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20)
		facts = append(facts, fmt.Sprintf("vmsplice:%v pipe:%v user:%v", vmsplice, pipe, unix.Unshare(unix.CLONE_NEWUSER)))
		_, high := unix.FcntlInt(leftOpen, unix.F_GETFD, 0)
		facts = append(facts, fmt.Sprintf("left open:%v", high))
		serveFUSE(mountAs(args[0], strings.Join(facts, " ")), true)
	case "serve":
		serveFUSE(mountFUSE(args[0]), true)
	case "slow-end": // writes its data when it is unmounted
		atEnd = func() {
			time.Sleep(300 * time.Millisecond)
			fmt.Println("all is written")
		}
		serveFUSE(mountFUSE(args[0]), true)
	case "epoll": // as programs with an old go-fuse
		fd := mountFUSE(args[0])
		if _, err := os.Open(filepath.Join(args[0], ".go-fuse-epoll-hack")); err != nil {
			die("%v", err)
		}
		serveFUSE(fd, true)
	}
	die("%s: unknown", what)
}

func mountFUSE(dir string) int { return mountAs(dir, "nowhere") }

func mountAs(dir, source string) int {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		die("open /dev/fuse: %v", err)
	}
	// Some programs have their descriptor at a high number.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 50)
	if err != nil {
		die("%v", err)
	}
	_ = unix.Close(fd)
	mountFD(high, dir, source)
	return high
}

func mountFD(fd int, dir, source string) {
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=4096", fd)
	if err := unix.Mount(source, dir, "fuse.test", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		die("mount: %v", err)
	}
}

// atEnd is what the program does when the other side is gone.
var atEnd = func() {}

// serveFUSE answers INIT and GETATTR until the other side is gone.
func serveFUSE(fd int, end bool) {
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 40 {
			if !end {
				select {}
			}
			atEnd()
			os.Exit(0)
		}
		var body []byte
		switch binary.LittleEndian.Uint32(b[4:]) {
		case 26: // INIT
			body = make([]byte, 64)
			binary.LittleEndian.PutUint32(body, 7)
			binary.LittleEndian.PutUint32(body[4:], 31)
		case 3: // GETATTR
			body = make([]byte, 104)
			binary.LittleEndian.PutUint64(body[16:], 1)
			binary.LittleEndian.PutUint32(body[16+60:], unix.S_IFDIR|0o755)
		}
		out := make([]byte, 16, 16+len(body))
		copy(out[8:], b[8:16])
		if body == nil {
			errno := int32(-int(unix.ENOSYS))
			binary.LittleEndian.PutUint32(out[4:], uint32(errno))
		}
		out = append(out, body...)
		binary.LittleEndian.PutUint32(out, uint32(len(out)))
		if _, err := unix.Write(fd, out); err != nil {
			os.Exit(0)
		}
	}
}
