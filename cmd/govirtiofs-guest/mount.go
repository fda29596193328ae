package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/token"
	"github.com/govirtiofs/govirtiofs/stream"
)

const mountHelp = `Usage: govirtiofs-guest mount [options] ADDRESS DIR

Mounts a share of govirtiofsd --vsock or --vsock-uds on DIR. ADDRESS is vsock:CID:PORT/SHARE. CID
is 2 for the host. SHARE is the name of the daemon's --vsock-share, or its --tag; it may be left out
if there is only one share. ADDRESS may also be unix:PATH, a Unix socket of this machine.

The command returns when the share is mounted. A process stays in the background until DIR
is unmounted.

Options:
`

// newMountSet declares the options of the subcommand.
func newMountSet(o *mountOptions, list *[]string) *pflag.FlagSet {
	f := pflag.NewFlagSet("mount", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay in the foreground")
	f.StringArrayVarP(list, "options", "o", nil, "mount `options`, separated by commas: token=FILE, share=NAME, channels=N, reconnect=SECONDS, private, and those of mount(8)")
	return f
}

// mountCommand is the subcommand mount.
func mountCommand(args []string, stdout io.Writer) error {
	o := &mountOptions{suid: true, dev: true}
	var list []string
	f := newMountSet(o, &list)
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, err = fmt.Fprint(stdout, mountHelp, f.FlagUsages())
		return err
	case err != nil:
		return usageError{err}
	case f.NArg() != 2:
		return usagef("give the ADDRESS of a share and a DIR to mount it on")
	}
	return o.mount(f.Arg(0), f.Arg(1), list)
}

// mountHelper is what mount(8) calls: ADDRESS DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE].
func mountHelper(args []string, stdout io.Writer) error {
	o := &mountOptions{suid: true, dev: true}
	f := pflag.NewFlagSet("mount.govirtiofs", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	var list []string
	f.StringArrayVarP(&list, "options", "o", nil, "")
	f.BoolVarP(&o.fake, "fake", "f", false, "")
	f.StringP("type", "t", "", "")
	namespace := f.StringP("namespace", "N", "", "")
	for _, nothing := range []string{"s", "n", "v"} {
		f.BoolP("ignored-"+nothing, nothing, false, "")
	}
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, err = fmt.Fprintln(stdout, "Usage: mount -t govirtiofs [-o OPTIONS] ADDRESS DIR; see govirtiofs-guest(8)")
		return err
	case err != nil:
		return usageError{err}
	case *namespace != "":
		return usagef("-N is not supported: enter the mount namespace with nsenter(1)")
	case f.NArg() != 2:
		return usagef("want ADDRESS and DIR, not %q", f.Args())
	}
	return o.mount(f.Arg(0), f.Arg(1), list)
}

// mount checks everything, and mounts.
func (o *mountOptions) mount(where, dir string, list []string) (err error) {
	if o.address, err = parseAddress(where); err != nil {
		return err
	}
	if err := o.words(strings.Join(list, ",")); err != nil {
		return err
	}
	o.dir = dir
	for _, path := range []*string{&o.dir, &o.token, &o.address.path} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil { // the background works in another directory
			return err
		}
	}
	switch st, err := os.Stat(o.dir); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: make the directory to mount on first: mkdir -p %s", err, o.dir)
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is not a directory: give a directory to mount on", o.dir)
	case o.fake:
		return nil
	}
	switch {
	case inBackground():
		return o.background()
	case o.foreground:
		return o.serve(consoleLog(), nil)
	}
	return o.startBackground()
}

// readToken reads the token of the option, or the one in its usual place.
func (o *mountOptions) readToken() ([]byte, error) {
	path := o.token
	if path == "" {
		path = defaultToken
	}
	b, err := token.Read(path)
	switch {
	case o.token == "" && errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("token: %w", err)
	}
	return b, nil
}

// serve mounts and serves until the directory is unmounted. mounted is called when the kernel
// has the mount; nil is nothing.
func (o *mountOptions) serve(log *slog.Logger, mounted func()) error {
	secret, err := o.readToken()
	if err != nil {
		return err
	}
	var m *fusedev.Mount
	c, err := stream.Dial(context.Background(), stream.ClientOptions{Dial: o.address.dial, Share: o.address.share,
		Token: secret, Channels: o.channels, Patience: o.patience, Log: log, Renewed: func() { o.forget(m) }})
	if err != nil {
		return err
	}
	defer c.Close()
	moreProcessors(c.Channels())
	root := os.Geteuid() == 0
	m, err = fusedev.New(o.dir, fusedev.Options{Source: o.address.text, Subtype: "govirtiofs", ReadOnly: o.readOnly,
		SetID: root && o.suid, Devices: root && o.dev, Flags: o.flags, AllowOther: root && !o.private, Permissions: true, MaxRead: c.MaxRead()})
	if err != nil {
		return fuseHint(err)
	}
	defer func() { _ = m.Close() }()
	devices := []stream.Device{m}
	for range c.Channels() - 1 {
		d, err := m.Clone()
		if err != nil {
			_ = m.Detach()
			return err
		}
		defer func() { _ = d.Close() }()
		devices = append(devices, d)
	}
	protect()
	unmountAtSignal(m)
	if mounted != nil {
		mounted()
	}
	if err := c.Serve(devices); err != nil {
		_ = m.Detach()
		return fmt.Errorf("%s on %s: %w", o.address.text, o.dir, err)
	}
	return nil
}

// forget has the kernel drop the names that it knows: they are of a session that is gone.
func (o *mountOptions) forget(m *fusedev.Mount) {
	_ = m.Notify(fp.NotifyIncEpoch) // Linux 6.16
	root := fp.NotifyInvalInodeOut{Ino: fp.RootID}
	_ = m.Notify(fp.NotifyInvalInode, fp.Bytes(&root))
	_ = dropNames(o.dir)
}

// dropNames has the kernel drop the names of the share on dir that no process uses, as it does for each file system
// that is remounted. Meanwhile the share may have been unmounted, or covered: what is not FUSE is left alone.
func dropNames(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if st.Type != unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("%s: no share is mounted there any more", dir)
	}
	// This is about the file system, and changes nothing of it. The older call also sets the flags of the mount, and has the whole
	// file system read-only if the mount is.
	fs, err := unix.Fspick(fd, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err == nil {
		defer func() { _ = unix.Close(fs) }()
		return unix.FsconfigReconfigure(fs)
	}
	if !errors.Is(err, unix.ENOSYS) { // Linux before 5.2
		return err
	}
	return unix.Mount("", fmt.Sprintf("/proc/self/fd/%d", fd), "", unix.MS_REMOUNT|mountFlags(&st), "")
}

// mountFlags are those of a mount that remounting it would clear.
func mountFlags(st *unix.Statfs_t) (flags uintptr) {
	for is, flag := range map[int64]uintptr{
		unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_SYNCHRONOUS: unix.MS_SYNCHRONOUS, unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if int64(st.Flags)&is != 0 {
			flags |= flag
		}
	}
	return flags
}

// moreProcessors has Go's scheduler take a processor more for each goroutine that waits in the kernel: two for each channel, one for
// /dev/fuse and one for the connection, and one for channel 0. With as many as a small guest has they would wait for each
// other: one that waits keeps its processor until the runtime's monitor takes it away, which can be 10 ms later.
func moreProcessors(channels int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + 2*channels + 1)
	}
}

// fuseHint adds what to do about a /dev/fuse that can't be opened.
func fuseHint(err error) error {
	if errors.Is(err, os.ErrNotExist) && strings.Contains(err.Error(), "/dev/fuse") || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: the kernel has no FUSE here: modprobe fuse", err)
	}
	return err
}

// unmountAtSignal unmounts at SIGTERM and similar signals. A mount that is in use is detached,
// and served until its last use ends. A second signal ends the process.
func unmountAtSignal(m *fusedev.Mount) {
	signals := make(chan os.Signal, 1)
	list := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if !signal.Ignored(unix.SIGHUP) {
		list = append(list, unix.SIGHUP)
	}
	signal.Notify(signals, list...)
	go func() {
		<-signals
		signal.Reset(list...)
		if m.Unmount() != nil {
			_ = m.Detach()
		}
	}()
}

// protect keeps the process alive when the guest is short of memory, because the kernel may
// need a reply from it to free memory. If a part of the protection fails, the process
// continues without it.
func protect() {
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	_, _, _ = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0)
}
