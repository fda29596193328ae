package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// Socket is the file through which the VMM finds the daemon, and the processes
// that have it open.
type Socket struct {
	Path      string
	Err       error // of finding the file
	DirErr    error // of its directory, when there is no file
	Mode      fs.FileMode
	UID, GID  uint32
	Label     string
	Listed    error // of listing the sockets; the fields below are not known then
	Listening bool
	Owners    []int // processes that have the listening socket or the daemon's ends
	Front     []int // processes at the other end of its connections: VMMs
	Connected int   // connections
	Connect   error // what keeps this user from connecting, as far as modes tell
	PIDFile   int   // what PATH.pid says, 0 if there is none
	PIDLives  bool
	Stuck     []Stuck // requests of the guest that hang, the oldest first
	Looked    bool    // for those: the daemon has a ledger that this user may read
}

// socket looks at a socket's file without connecting to it.
func (h host) socket(path string) Socket {
	s := Socket{Path: path}
	fi, err := os.Stat(path)
	s.Err = err
	if err != nil {
		s.DirErr = unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK)
		return s
	}
	st := (*unix.Stat_t)(nil)
	var own unix.Stat_t
	if unix.Stat(path, &own) == nil {
		st = &own
		s.UID, s.GID = own.Uid, own.Gid
	}
	s.Mode = fi.Mode()
	s.Connect = unix.Access(path, unix.W_OK)
	buf := make([]byte, 256)
	if n, err := unix.Getxattr(path, "security.selinux", buf); err == nil {
		s.Label = strings.TrimRight(string(buf[:n]), "\x00")
	}
	if pid, err := strconv.Atoi(h.read(path + ".pid")); err == nil {
		s.PIDFile = pid
		s.PIDLives = h.exists(fmt.Sprintf("proc/%d", pid))
	}
	if st != nil && s.Mode.Type() == fs.ModeSocket {
		h.peers(&s, st)
	}
	pids := s.Owners
	if s.PIDLives {
		pids = append(slices.Clone(pids), s.PIDFile)
	}
	s.Stuck, s.Looked = h.stuck(pids)
	return s
}

// peers finds the processes that listen and those that are connected.
func (h host) peers(s *Socket, st *unix.Stat_t) {
	all, err := unixSockets()
	if s.Listed = err; err != nil {
		return
	}
	back, front := connections(all, st)
	s.Connected = len(back)
	if l := listener(all, st); l != nil {
		s.Listening = true
		back = append(back, l.Inode)
	}
	holders := h.holders(append(slices.Clone(back), front...))
	s.Owners, s.Front = pick(holders, back), pick(holders, front)
}

// pick joins the holders of some sockets.
func pick(holders map[uint32][]int, inodes []uint32) (out []int) {
	for _, i := range inodes {
		out = append(out, holders[i]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// holders finds the processes that have these sockets open, among those that the
// caller may examine.
func (h host) holders(inodes []uint32) map[uint32][]int {
	out := map[uint32][]int{}
	links, _ := filepath.Glob(filepath.Join(h.root, "proc/[0-9]*/fd/*"))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, "socket:[") {
			continue
		}
		n, err := strconv.ParseUint(strings.Trim(target, "socket:[]"), 10, 32)
		if err != nil || !slices.Contains(inodes, uint32(n)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
		if err == nil {
			out[uint32(n)] = append(out[uint32(n)], pid)
		}
	}
	return out
}

// maxSocketPath is the longest path that a socket's address can hold, in bytes.
const maxSocketPath = 107

// socket judges a socket's file.
func (r *Report) socket(p *share.Config, s *Socket, vmms []VMM) {
	const check = "socket"
	if len(s.Path) > maxSocketPath {
		r.add(Fail, check, "choose a shorter path, or a relative one", "%s has %d bytes; a socket's path has at most %d", s.Path, len(s.Path), maxSocketPath)
		return
	}
	switch {
	case errors.Is(s.Err, os.ErrNotExist):
		r.noSocket(p, s)
	case s.Err != nil:
		r.add(Fail, check, fmt.Sprintf("namei -l %s shows which directory is closed", quote(s.Path)), "%v", s.Err)
	case s.Mode.Type() != fs.ModeSocket:
		r.add(Fail, check, "choose another path: a daemon does not replace a file that is not a socket", "%s is not a socket", s.Path)
	default:
		r.listening(s)
		r.mayConnect(s, vmms)
		r.stuck(s)
	}
}

func (r *Report) noSocket(p *share.Config, s *Socket) {
	dir := filepath.Dir(s.Path)
	switch {
	case errors.Is(s.DirErr, unix.ENOENT):
		r.add(Fail, "socket", fmt.Sprintf("mkdir -p %s", quote(dir)), "the directory %s does not exist", dir)
	case s.DirErr != nil:
		r.add(Fail, "socket", fmt.Sprintf("choose a directory that this user can write to, such as $XDG_RUNTIME_DIR; ls -ld %s", quote(dir)),
			"this user can't make a socket in %s: %v", dir, s.DirErr)
	default:
		share := p.SharedDir
		if share == "" {
			share = "DIR"
		}
		r.add(Warn, "socket", fmt.Sprintf("govirtiofsd --socket-path %s --shared-dir %s", quote(s.Path), quote(share)),
			"%s does not exist yet: no daemon runs", s.Path)
	}
}

// listening reports which process serves the socket.
func (r *Report) listening(s *Socket) {
	const check = "socket.daemon"
	start := fmt.Sprintf("start the daemon; it replaces the file. With --keep-listening it waits for the next VMM: govirtiofsd --keep-listening --socket-path %s ...", quote(s.Path))
	switch {
	case s.Listed != nil:
		r.add(Warn, check, "", "the kernel does not list sockets (%v): not known whether a daemon listens", s.Listed)
	case s.Listening && s.Connected == 0:
		r.ok(check, "%s %s on %s", processes(s.Owners), verb(s.Owners, "listens", "listen"), s.Path)
	case s.Listening:
		r.ok(check, "%s, and %s for the next VMM", serves(s), verb(s.Owners, "listens", "listen"))
	case s.Connected > 0:
		r.ok(check, "%s; nobody listens for another VMM", serves(s))
	case s.PIDLives:
		r.add(Warn, check, start, "nobody listens on %s, but process %d of its pid file runs", s.Path, s.PIDFile)
	default:
		r.add(Fail, check, start, "nobody listens on %s: it is left from a daemon that has ended", s.Path)
	}
}

// serves says which processes serve which.
func serves(s *Socket) string {
	return processes(s.Owners) + " " + verb(s.Owners, "serves", "serve") + " " + processes(s.Front)
}

// verb is the form of a verb that follows what processes returns.
func verb(pids []int, one, several string) string {
	if len(pids) > 1 {
		return several
	}
	return one
}

// processes names processes. An empty list means processes that the caller may
// not examine.
func processes(pids []int) string {
	if len(pids) == 0 {
		return "a process (of another user)"
	}
	words := make([]string, len(pids))
	for i, pid := range pids {
		words[i] = strconv.Itoa(pid)
	}
	if len(words) == 1 {
		return "process " + words[0]
	}
	return "processes " + strings.Join(words, ", ")
}

// mayConnect judges the file's mode for this user and for the VMMs that are known.
func (r *Report) mayConnect(s *Socket, vmms []VMM) {
	const check = "socket.access"
	group := groupName(s.GID)
	remedy := fmt.Sprintf("start the VMM as user %d, or the daemon with --socket-group GROUP of the VMM's user (now: group %s, mode %04o)", s.UID, group, s.Mode.Perm())
	bad := false
	for _, v := range vmms {
		if !allows(s, v.UID, v.Groups) {
			r.add(Fail, check, remedy, "process %d (user %d) may not connect", v.PID, v.UID)
			bad = true
		}
	}
	switch {
	case bad:
	case s.Connect != nil && len(vmms) == 0:
		r.add(Warn, check, remedy, "this user may not connect to it: %v", s.Connect)
	default:
		r.ok(check, "mode %04o, user %d, group %s", s.Mode.Perm(), s.UID, group)
	}
}

// allows reports whether the mode lets a user connect. This needs write
// permission.
func allows(s *Socket, uid int, groups []int) bool {
	switch {
	case uid == 0:
		return true
	case uint32(uid) == s.UID:
		return s.Mode&0o200 != 0
	case slices.Contains(groups, int(s.GID)):
		return s.Mode&0o020 != 0
	}
	return s.Mode&0o002 != 0
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}
