package program

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	// struct seccomp_data
	number  int32
	arch    uint32
	pointer uint64
	args    [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// addFD is struct seccomp_notif_addfd.
type addFD struct {
	id         uint64
	flags      uint32
	from, to   uint32
	newFDFlags uint32
}

// listener is where the system calls arrive that the filter has passed on.
type listener struct{ file *os.File }

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// next waits for a call without holding a thread. errEnded says that no process with the filter is left.
func (l *listener) next() (n notification, err error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return n, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, 0); err != nil && !errors.Is(err, unix.EINTR) {
			failed = err
			return true
		}
		switch {
		case p[0].Revents&unix.POLLIN != 0:
			n = notification{}
			failed = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n))
			return !errors.Is(failed, unix.EINTR) && !errors.Is(failed, unix.ENOENT) // gone meanwhile
		case p[0].Revents != 0:
			failed = errEnded
			return true
		}
		return false
	})
	return n, errors.Join(err, failed)
}

// control calls ioctl on the descriptor.
func (l *listener) control(request uintptr, arg unsafe.Pointer) error {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = ioctl(fd, request, arg) })
	return errors.Join(err, failed)
}

// waits reports whether the call still waits for its answer: only then what was read from the process is its.
func (l *listener) waits(id uint64) bool {
	return l.control(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// answer has the call return 0, or fail with errno if that is not 0. It fails if a signal has ended the call.
func (l *listener) answer(id uint64, errno unix.Errno) error {
	a := answer{id: id, errno: -int32(errno)}
	return l.control(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
}

// pass has the kernel make the call (SECCOMP_USER_NOTIF_FLAG_CONTINUE).
func (l *listener) pass(id uint64) error {
	a := answer{id: id, flags: 1}
	return l.control(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
}

// give puts the file in place of the descriptor of the process that has made the call.
func (l *listener) give(id uint64, f *os.File, fd int, flags uint32) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(own uintptr) {
		a := addFD{id: id, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, from: uint32(own), to: uint32(fd), newFDFlags: flags}
		failed = l.control(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&a))
	})
	return errors.Join(err, failed)
}

// ownNumber is the number that the process of a thread has in its own pid namespace.
func ownNumber(thread uint32) (uint32, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NStgid:"); ok {
			if all := strings.Fields(rest); len(all) > 0 {
				n, err := strconv.ParseUint(all[len(all)-1], 10, 32)
				return uint32(n), err
			}
		}
	}
	return 0, errors.New("the kernel does not tell it (NStgid in /proc/PID/status)")
}

// request is what a program wants mounted.
type request struct {
	source, target, kind, data string
	flags                      uintptr
}

// Limits of the strings of mount(2).
const (
	maxPath = 4096
	maxKind = 256
	maxData = 4096 // one page
)

// readRequest reads the arguments of mount(2). Null pointers are empty strings.
func readRequest(n *notification) (r request, err error) {
	r.flags = uintptr(n.args[3])
	for _, s := range []struct {
		to      *string
		pointer uint64
		most    int
	}{{&r.source, n.args[0], maxPath}, {&r.target, n.args[1], maxPath}, {&r.kind, n.args[2], maxKind}, {&r.data, n.args[4], maxData}} {
		if *s.to, err = readString(int(n.pid), uintptr(s.pointer), s.most); err != nil {
			return r, err
		}
	}
	return r, nil
}

// readString reads a string that ends with a zero byte from the memory of a process. It never reads beyond a page that
// the string has reached.
func readString(pid int, pointer uintptr, most int) (string, error) {
	if pointer == 0 {
		return "", nil
	}
	page := uintptr(os.Getpagesize())
	buf := make([]byte, 0, most)
	for len(buf) < most {
		part := buf[len(buf):min(most, len(buf)+int(page-pointer%page))]
		local := []unix.Iovec{{Base: unsafe.SliceData(part)}}
		local[0].SetLen(len(part))
		n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: pointer, Len: len(part)}}, 0)
		if err != nil {
			return "", os.NewSyscallError("process_vm_readv", err)
		}
		if i := bytes.IndexByte(part[:n], 0); i >= 0 {
			return string(buf[:len(buf)+i]), nil
		}
		if n == 0 {
			break
		}
		buf = buf[:len(buf)+n]
		pointer += uintptr(n)
	}
	return string(buf), nil
}

// isFUSE tells the types of FUSE from others.
func (r *request) isFUSE() bool {
	name, _, _ := strings.Cut(r.kind, ".")
	return name == "fuse" || name == "fuseblk"
}

// device is the number in "fd=N".
func (r *request) device() (int, error) {
	for _, word := range strings.Split(r.data, ",") {
		if v, ok := strings.CutPrefix(word, "fd="); ok {
			fd, err := strconv.ParseInt(v, 10, 32)
			if err != nil || fd < 0 {
				return -1, fmt.Errorf("mount options %q: fd is not a descriptor", r.data)
			}
			return int(fd), nil
		}
	}
	return -1, fmt.Errorf("mount options %q have no fd", r.data)
}

// fdFlags are the flags of a descriptor of another process, as open(2) has them.
func fdFlags(pid uint32, fd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseInt(strings.TrimSpace(v), 8, 64)
			return int(flags), err
		}
	}
	return 0, errors.New("fdinfo has no flags")
}

// fuseDevices are the descriptors of a process that are /dev/fuse, or what stands there.
func fuseDevices(pid uint32) (fds []int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if target, _ := os.Readlink(dir + "/" + e.Name()); err == nil && target == "/dev/fuse" {
			fds = append(fds, fd)
		}
	}
	return fds
}
