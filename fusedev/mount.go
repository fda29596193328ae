package fusedev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// Options of a mount.
type Options struct {
	Source   string // shown as the mount's source; "govirtiofs" if empty
	Subtype  string // the file system shows as fuse.Subtype, if not empty
	ReadOnly bool
	// SetID and Devices let set-ID bits, file capabilities and device nodes work in the mount,
	// as they do in a guest. Only root can mount so.
	SetID, Devices bool
	// AllowOther lets every user of this machine in, not only the one that mounts. If
	// that is not root, /etc/fuse.conf must allow it.
	AllowOther bool
	// Permissions makes the kernel check owners and modes, as a virtio-fs guest does
	// (fs/fuse/virtio_fs.c: default_permissions).
	Permissions bool
	// Flags are further flags of mount(2), MS_NOEXEC and the like. Only root can have some.
	Flags uintptr
	// MaxRead, if not 0, is how many bytes the kernel asks for in one READ at most. It
	// must say the same as what INIT's reply allows.
	MaxRead uint32
	// IOUring has Serve take requests by io_uring, if the kernel can (Linux 6.14) and may: the
	// parameter enable_uring of the module fuse is Y. Otherwise Serve reads /dev/fuse as without. Each
	// processor has a queue then, in which a request that hangs holds up the ones behind it
	// (fuse.Hooks.Stuck is not used), and takes up to 16 MiB of memory for data.
	IOUring bool
	// Ledger is where Serve notes requests under way for a process that continues after a death of this
	// one (Mount.Recover). The handler's server and file system have the same ledger. All goroutines of Serve
	// then read from one descriptor, and IOUring does nothing.
	Ledger *ledger.Ledger
	// Host, if not nil, is told of the threads of Serve, so that Go's scheduler gets a processor more for each of
	// them (host.Host.AddQueues). Without it, as many threads as processors keep all of them while they wait for
	// requests, which costs a third of the speed and more. govirtiofs.Server.Mount sets it.
	Host *host.Host
}

// Mount is a directory that shows what /dev/fuse is told.
type Mount struct {
	target string
	file   *os.File
	uring  bool
	rung   atomic.Uint64 // requests that came by io_uring
	helper bool          // unmounted by fusermount3
	pairs  sync.Pool     // buffers of requests that have waited
	ledger *ledger.Ledger
	host   *host.Host

	control *os.File // ends the connection; nil where that can't be

	cells    *cells     // nil without a ledger
	resentMu sync.Mutex // guards resent
	resent   [][]byte   // requests that Recover has read
}

// New mounts on the directory target. Root mounts by itself; for other users
// fusermount3, which is set-user-ID root, must be installed. Errors say what to do, and are still
// fs.ErrNotExist, unix.EPERM and so on for errors.Is.
func New(target string, o Options) (*Mount, error) {
	if o.Source == "" {
		o.Source = "govirtiofs"
	}
	st, err := os.Stat(target)
	if err != nil {
		return nil, hint(err, target)
	}
	mode := uint32(unix.S_IFREG)
	if st.IsDir() {
		mode = unix.S_IFDIR
	}
	m := &Mount{target: target, uring: o.IOUring && o.Ledger == nil, ledger: o.Ledger, host: o.Host}
	switch {
	case os.Geteuid() == 0:
		err = m.direct(mode, o)
	case o.SetID || o.Devices || o.Flags != 0:
		err = errors.New("only root can mount so that set-ID bits, devices or other flags work")
	default:
		err = m.byHelper(o)
	}
	if err != nil {
		return nil, hint(fmt.Errorf("mount on %s: %w", target, err), target)
	}
	m.control = openControl(target)
	return m, nil
}

// common are the options that both ways of mounting take.
func (o *Options) common() (list []string) {
	if o.AllowOther {
		list = append(list, "allow_other")
	}
	if o.Permissions {
		list = append(list, "default_permissions")
	}
	if o.MaxRead != 0 {
		list = append(list, fmt.Sprintf("max_read=%d", o.MaxRead))
	}
	return list
}

func (m *Mount) direct(mode uint32, o Options) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	m.file = os.NewFile(uintptr(fd), "/dev/fuse")
	fstype := "fuse"
	if o.Subtype != "" {
		fstype += "." + o.Subtype
	}
	flags := o.Flags
	for flag, on := range map[uintptr]bool{unix.MS_NOSUID: !o.SetID, unix.MS_NODEV: !o.Devices, unix.MS_RDONLY: o.ReadOnly} {
		if on {
			flags |= flag
		}
	}
	data := append([]string{
		fmt.Sprintf("fd=%d", fd), fmt.Sprintf("rootmode=%o", mode),
		"user_id=0", "group_id=0",
	}, o.common()...)
	if err := unix.Mount(o.Source, m.target, fstype, flags, strings.Join(data, ",")); err != nil {
		_ = m.file.Close()
		return err
	}
	return nil
}

// byHelper lets fusermount3 mount; it sends its descriptor of /dev/fuse over the socket
// that is named in its environment.
func (m *Mount) byHelper(o Options) error {
	list := append(o.common(), "fsname="+escape(o.Source))
	if o.Subtype != "" {
		list = append(list, "subtype="+escape(o.Subtype))
	}
	if o.ReadOnly {
		list = append(list, "ro")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer func() { _ = ours.Close() }()
	cmd := exec.Command("fusermount3", "-o", strings.Join(list, ","), "--", m.target)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3") // the first of ExtraFiles
	cmd.ExtraFiles = []*os.File{theirs}
	var message strings.Builder
	cmd.Stderr = &message
	err = cmd.Run()
	_ = theirs.Close()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("only root can mount, or fusermount3 must be installed (package fuse3)")
	case err != nil:
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(message.String()))
	}
	fd, err := receiveFD(pair[0])
	if err != nil {
		return fmt.Errorf("fusermount3 sent no descriptor: %w", err)
	}
	m.file, m.helper = os.NewFile(uintptr(fd), "/dev/fuse"), true
	return nil
}

// escape protects what separates options from each other.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

func receiveFD(socket int) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, err
	}
	if len(messages) == 0 {
		return -1, errors.New("connection closed")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// Unmount takes the directory away again; a mount that is in use is EBUSY. Close comes
// after it.
func (m *Mount) Unmount() error {
	if !m.helper {
		if err := unix.Unmount(m.target, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.target, err)
		}
		return nil
	}
	out, err := exec.Command("fusermount3", "-u", "--", m.target).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: fusermount3: %w: %s", m.target, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Detach takes the directory away from sight even while it is in use.
func (m *Mount) Detach() error {
	if !m.helper {
		return unix.Unmount(m.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return exec.Command("fusermount3", "-u", "-z", "--", m.target).Run()
}

// End unmounts and has Serve return, even while the mount is in use, and even if another mount namespace has a copy of it:
// every container that was started meanwhile may have one, and Serve serves the last one to its end. Who uses one
// gets ENOTCONN from then on. It can't end copies of a mount that was adopted, or was made without root where
// /sys/fs/fuse/connections is not mounted.
func (m *Mount) End() error {
	err := m.Unmount()
	if err != nil {
		err = m.Detach()
	}
	m.disconnect()
	return err
}

// disconnect ends the connection, if it still lives.
func (m *Mount) disconnect() {
	if m.control != nil {
		_, _ = m.control.Write([]byte("1"))
	}
}

// openControl opens the file that ends the connection (fs/fuse/control.c). That is done while the file system is certainly
// mounted: the number that it has in the name is somebody else's soon after its end. An open file stays that of its
// connection, or of none. It is nil where that can't be had.
func openControl(target string) *os.File {
	var st unix.Statx_t // of which the kernel asks the server nothing; the major number is 0
	if unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC, 0, &st) != nil {
		return nil
	}
	name := fmt.Sprintf("%d/abort", st.Dev_minor)
	if f, err := os.OpenFile("/sys/fs/fuse/connections/"+name, os.O_WRONLY, 0); err == nil {
		return f
	}
	// Where nobody has mounted these files, root can have them without a directory.
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fs) }()
	if unix.FsconfigCreate(fs) != nil {
		return nil
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// abort ends the connection: requests that nobody answers would wait for ever.
func (m *Mount) abort() {
	if m.helper || unix.Unmount(m.target, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
		_ = m.Detach()
	}
	m.disconnect()
}

// Close closes /dev/fuse. Every use of the mount fails with ENOTCONN from now
// on.
func (m *Mount) Close() error {
	if m.control != nil {
		_ = m.control.Close()
	}
	return m.file.Close()
}
