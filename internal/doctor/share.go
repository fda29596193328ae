package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Share is the shared directory and the features of its file system. The error of a
// feature is nil if the feature works. errUntried means that it could not be tried.
type Share struct {
	Path    string
	Err     error // of reaching it
	Mode    os.FileMode
	UID     uint32
	FSType  int64 // of statfs
	Flags   int64 // of statfs
	Full    bool  // no space or no inodes are left
	CanRead error
	CanPut  error // making a file

	Handle       error // name_to_handle_at
	TmpFile      error // O_TMPFILE
	UserXattr    error
	TrustedXattr error // overlay file systems in the guest
	Security     error // the security namespace
	ACL          error
	Nowait       error // reads with RWF_NOWAIT
	Watch        error // changes by others, for --events
	Label        string
	Submounts    int
}

var errUntried = errors.New("not tried")

// gatherShare looks at a share and tries its file system's features.
func gatherShare(path string) Share {
	s := Share{Path: path}
	fi, err := os.Stat(path)
	if err != nil {
		s.Err = err
		return s
	}
	s.Mode = fi.Mode()
	flags := unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Open(path, flags, 0)
	s.CanRead = err
	if err != nil {
		s.Handle, s.TmpFile, s.UserXattr, s.TrustedXattr = errUntried, errUntried, errUntried, errUntried
		s.Security, s.ACL, s.Nowait, s.CanPut = errUntried, errUntried, errUntried, errUntried
		s.Watch = errUntried
		return s
	}
	defer unix.Close(fd)
	s.look(fd)
	s.try(fd)
	s.Submounts = countSubmounts(path)
	return s
}

// look collects the facts that need no trial file.
func (s *Share) look(fd int) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		s.UID = st.Uid
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil {
		s.FSType, s.Flags = int64(fs.Type), int64(fs.Flags)
		s.Full = fs.Blocks > 0 && fs.Bavail == 0 || fs.Files > 0 && fs.Ffree == 0
	}
	buf := make([]byte, 256)
	if n, err := unix.Fgetxattr(fd, "security.selinux", buf); err == nil {
		s.Label = strings.TrimRight(string(buf[:n]), "\x00")
	}
	_, _, s.Handle = unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	s.Security = readable(fd, "security.capability")
	s.ACL = readable(fd, "system.posix_acl_access")
	s.Watch = watchable(fd)
}

// watchable reports whether changes in a directory can be heard of.
func watchable(fd int) error {
	w, err := hostwatch.New(hostwatch.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	return w.Add(fd, 1)
}

// readable reports whether attributes of this namespace exist. ENODATA means
// yes.
func readable(fd int, name string) error {
	_, err := unix.Fgetxattr(fd, name, nil)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

// try tries features on a file without a name, so that no file remains.
func (s *Share) try(dir int) {
	s.UserXattr, s.TrustedXattr, s.Nowait = errUntried, errUntried, errUntried
	if !s.Mode.IsDir() {
		s.TmpFile, s.CanPut = errUntried, unix.Access(s.Path, unix.W_OK)
		return
	}
	s.CanPut = unix.Faccessat(dir, ".", unix.W_OK|unix.X_OK, 0)
	fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	s.TmpFile = err
	if err != nil {
		if s.CanPut != nil { // the errors then say nothing about the file system
			s.TmpFile = errUntried
		}
		s.UserXattr = readable(dir, "user.govirtiofs.doctor")
		return
	}
	defer unix.Close(fd)
	s.UserXattr = unix.Fsetxattr(fd, "user.govirtiofs.doctor", []byte("1"), 0)
	s.TrustedXattr = unix.Fsetxattr(fd, "trusted.govirtiofs.doctor", []byte("1"), 0)
	if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
		return
	}
	_, s.Nowait = unix.Preadv2(fd, [][]byte{make([]byte, 4096)}, 0, unix.RWF_NOWAIT)
	if errors.Is(s.Nowait, unix.EAGAIN) {
		s.Nowait = nil
	}
}

// countSubmounts counts the mounts below a directory.
func countSubmounts(path string) (n int) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	abs, err := filepath.EvalSymlinks(path)
	if err == nil {
		abs, err = filepath.Abs(abs)
	}
	if err != nil {
		return 0
	}
	prefix := strings.TrimSuffix(abs, "/") + "/"
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] != "/" && strings.HasPrefix(f[4], prefix) {
			n++
		}
	}
	return n
}

// fileSystem is what is known about a sort of file system.
type fileSystem struct {
	name    string
	warning string // empty if it is fine to share
}

const (
	staleCache = "changes by other hosts are not noticed: names and attributes in the guest can be old"
	noHandles  = "files have no lasting handles"
)

var fileSystems = map[int64]fileSystem{
	unix.EXT4_SUPER_MAGIC:      {"ext4", ""},
	unix.XFS_SUPER_MAGIC:       {"xfs", ""},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", ""},
	unix.TMPFS_MAGIC:           {"tmpfs", ""},
	unix.F2FS_SUPER_MAGIC:      {"f2fs", ""},
	0x2fc12fc1:                 {"zfs", ""},
	0xca451a4e:                 {"bcachefs", ""},
	unix.RAMFS_MAGIC:           {"ramfs", ""},
	unix.NFS_SUPER_MAGIC:       {"nfs", staleCache + "; root of the guest is nobody with root_squash"},
	unix.SMB2_SUPER_MAGIC:      {"smb", staleCache + "; owners and modes are made up"},
	unix.CIFS_SUPER_MAGIC:      {"smb", staleCache + "; owners and modes are made up"},
	unix.CEPH_SUPER_MAGIC:      {"ceph", staleCache},
	unix.V9FS_MAGIC:            {"9p", staleCache + "; " + noHandles},
	unix.AFS_SUPER_MAGIC:       {"afs", staleCache},
	unix.FUSE_SUPER_MAGIC:      {"fuse", "what works depends on its server; " + noHandles + " after the server was restarted"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", noHandles + " without its mount option nfs_export; a guest can't use it as an overlay's upper layer"},
	unix.ECRYPTFS_SUPER_MAGIC:  {"ecryptfs", noHandles},
	unix.MSDOS_SUPER_MAGIC:     {"vfat", "no owners, modes, links or case"},
	unix.PROC_SUPER_MAGIC:      {"proc", "its files describe the host, not the guest"},
	unix.SYSFS_MAGIC:           {"sysfs", "its files describe the host, not the guest"},
}

// share judges what is shared.
func (r *Report) share(p *share.Config, s *Share) {
	if !r.reachable(p, s) {
		return
	}
	fs, known := fileSystems[s.FSType]
	switch {
	case !known:
		r.ok("share.filesystem", "file system with magic number %#x, unknown here", s.FSType)
	case fs.warning != "":
		remedy := "share a local file system if that matters"
		if strings.HasPrefix(fs.warning, staleCache) {
			remedy = "give the daemon --cache=never if other hosts write to it"
		}
		r.add(Warn, "share.filesystem", remedy, "%s: %s", fs.name, fs.warning)
	default:
		r.ok("share.filesystem", "%s", fs.name)
	}
	r.mountOptions(p, s)
	r.attributes(p, s)
	r.shareFeatures(s)
	r.caching(p, s)
}

// caching says what the guest sees of changes on the host.
func (r *Report) caching(p *share.Config, s *Share) {
	const check = "share.caching"
	long := p.Cache == passthrough.CacheAlways || p.Cache == passthrough.CacheMetadata
	switch {
	case p.Immutable:
	case p.Events == share.EventsAuto && s.Watch != nil && !errors.Is(s.Watch, errUntried):
		r.add(Warn, check, "share a file system that fanotify or inotify works on; see doc/events.md",
			"--events=auto: changes on the host can't be watched (%v), so the guest caches names and attributes for a second only", s.Watch)
	case p.Events == share.EventsAuto && long:
		r.ok(check, "changes on the host are reported to the guest if 'govirtiofs-guest watch' runs there")
	case p.Events == share.EventsAuto:
		r.ok(check, "changes on the host are reported to the guest if 'govirtiofs-guest watch' runs there; --cache=always is then faster, and the guest sees no old data")
	case long:
		r.ok(check, "the guest may see the changes of others a day late; for source trees add --events=auto, and run 'govirtiofs-guest watch' in the guest")
	case !p.ReadOnly:
		r.ok(check, "programs in the guest get no events for changes on the host; recommended for source trees: --cache=always --events=auto, with 'govirtiofs-guest watch' in the guest")
	}
}

// reachable reports whether the share can be opened, so that the other checks make sense.
func (r *Report) reachable(p *share.Config, s *Share) bool {
	const check = "share"
	switch {
	case errors.Is(s.Err, os.ErrNotExist):
		r.add(Fail, check, fmt.Sprintf("mkdir -p %s", quote(s.Path)), "%s does not exist", s.Path)
		return false
	case s.Err != nil:
		r.add(Fail, check, fmt.Sprintf("namei -l %s shows which directory is closed", quote(s.Path)), "%v", s.Err)
		return false
	case !s.Mode.IsDir() && !s.Mode.IsRegular():
		r.add(Fail, check, "share a directory or a regular file", "%s is neither a directory nor a regular file", s.Path)
		return false
	case s.Mode.IsRegular() && p.Sandbox == sandbox.ModeChroot:
		r.add(Fail, check, "use --sandbox=namespace", "%s is a file, which can't be shared with --sandbox=chroot", s.Path)
		return false
	case s.CanRead != nil:
		r.add(Fail, check, fmt.Sprintf("start the daemon as its owner (user %d), or chmod u+rx %s", s.UID, quote(s.Path)),
			"%s can't be read by this user: %v", s.Path, s.CanRead)
		return false
	}
	kind := "directory"
	if s.Mode.IsRegular() {
		kind = "regular file"
	}
	mounts := ""
	if s.Submounts > 0 {
		mounts = fmt.Sprintf(", with %d mounts below it", s.Submounts)
	}
	r.ok(check, "%s is a %s that can be read%s", s.Path, kind, mounts)
	return true
}

func (r *Report) mountOptions(p *share.Config, s *Share) {
	const check = "share.mount"
	ro := s.Flags&unix.ST_RDONLY != 0
	switch {
	case ro && !p.ReadOnly:
		r.add(Warn, check, "give the daemon --readonly, or mount -o remount,rw it on the host", "mounted read-only on the host: writes fail with EROFS")
	case s.CanPut != nil && !ro && !p.ReadOnly:
		r.add(Warn, check, fmt.Sprintf("chown it to the daemon's user, or give the daemon --readonly; ls -ld %s", quote(s.Path)),
			"this user can't write in it: %v", s.CanPut)
	}
	if s.Flags&unix.ST_NOEXEC != 0 {
		r.add(Warn, check, "mount -t virtiofs -o noexec in the guest if that is wanted", "noexec on the host does not hold in the guest")
	}
	if s.Full && !p.ReadOnly {
		r.add(Warn, check, "df -h and df -i show what is used up", "no space or no inodes are left")
	}
}

// attributes judges the extended attributes that the options need.
func (r *Report) attributes(p *share.Config, s *Share) {
	user, lost := p.Xattr, "--xattr serves none"
	if p.Names != nil && p.Names.Uses("user.") {
		user, lost = true, "the rules of --xattrmap or --xattrmap-preset keep the guest's there"
	}
	if p.Ownership == passthrough.OwnershipXattr {
		user, lost = true, "--ownership=xattr keeps owners, modes and devices there"
	}
	for _, a := range []struct {
		check, name, lost string
		err               error
		wanted            bool
	}{
		{"share.xattr", "extended attributes of users", lost, s.UserXattr, user},
		{"share.acl", "access control lists", "--posix-acl has no effect", s.ACL, p.PosixACL != passthrough.Never},
		{"share.security", "security attributes", "file capabilities and labels can't be kept", s.Security, p.SecurityLabel != passthrough.Never},
	} {
		switch {
		case errors.Is(a.err, errUntried), a.err != nil && !unsupported(a.err):
			r.ok(a.check, "%s: not tried", a.name)
		case a.err == nil:
			r.ok(a.check, "%s work", a.name)
		case a.wanted:
			r.add(Fail, a.check, "share a file system that has them (ext4, xfs, btrfs), or leave the option out", "no %s here: %s", a.name, a.lost)
		default:
			r.ok(a.check, "no %s here, and none are asked for", a.name)
		}
	}
	r.selinux(s)
}

// unsupported distinguishes the error of a file system that lacks something from
// the error of one that refuses this user.
func unsupported(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.ENOTSUP, unix.ENOSYS, unix.EINVAL, unix.EISDIR, unix.EOPNOTSUPP},
		func(e unix.Errno) bool { return errors.Is(err, e) })
}

func (r *Report) selinux(s *Share) {
	switch {
	case s.Label == "":
	case strings.Contains(s.Label, ":unlabeled_t:"), strings.Contains(s.Label, ":default_t:"):
		r.add(Warn, "share.label", fmt.Sprintf("restorecon -Rv %s, or semanage fcontext first", quote(s.Path)),
			"its SELinux label is %s, which confined programs may not use", s.Label)
	default:
		r.ok("share.label", "SELinux label %s", s.Label)
	}
}

// shareFeatures judges features that the daemon and the guest can do without.
func (r *Report) shareFeatures(s *Share) {
	for _, f := range []struct {
		check, good, lost string
		err               error
	}{
		{"share.handles", "files have handles (name_to_handle_at)", "files have no handles: each file that the guest knows takes a descriptor or is found again by name", s.Handle},
		{"share.tmpfile", "files without a name (O_TMPFILE) can be made", "no files without a name (O_TMPFILE): overlay mounts in the guest are slower", s.TmpFile},
		{"share.nowait", "reads that would wait can be detected (RWF_NOWAIT)", "no RWF_NOWAIT: a read of a slow disk holds up its queue", s.Nowait},
	} {
		switch {
		case f.err == nil:
			r.ok(f.check, "%s", f.good)
		case f.check == "share.nowait" && (s.FSType == unix.TMPFS_MAGIC || s.FSType == unix.RAMFS_MAGIC):
			// On a file system in memory no read waits.
		case unsupported(f.err):
			r.add(Warn, f.check, "", "%s", f.lost)
		}
	}
}

// quote makes a path safe to paste in a shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+:@%,=", c))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
