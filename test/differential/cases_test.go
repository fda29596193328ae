package differential

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A testCase sends requests. Each case looks up the nodes that it needs, because
// the session before it may have ended with the daemon.
type testCase struct {
	name string
	run  func(p *probe)
}

var cases = []testCase{
	{"lookup", lookup},
	{"getattr", getattr},
	{"readdir", readdir},
	{"readlink", readlink},
	{"statfs", statfs},
	{"access", access},
	{"open", open},
	{"openflags", openFlags},
	{"read", read},
	{"write", write},
	{"create", create},
	{"users", users},
	{"mknod", mknod},
	{"mkdir", mkdir},
	{"link", link},
	{"rename", rename},
	{"unlink", unlink},
	{"setattr", setattr},
	{"space", space},
	{"xattr", xattr},
	{"acl", acl},
	{"sync", syncing},
	{"locks", locks},
	{"newer", newer},
	{"forget", forget},
	{"numbers", numbers},
}

func lookup(p *probe) {
	for _, name := range []string{
		"file", "empty", "exec", "setuid", "private", "sparse", "link", "dangling", "fifo", "socket", "null", "loop",
		"folder", "sticky", "sgid", "home", "closed", "mnt", "nosuch", longName, longName + "n", "\xff\xfe",
	} {
		e, err := p.Lookup(1, name)
		p.entry(short(name), e, err)
	}
	for _, name := range []string{".", "..", "", "a/b", "/", "folder/", "./file"} {
		e, err := p.Lookup(1, name)
		p.entry("bad:"+name, e, err)
	}
	e, err := p.Lookup(p.find("file"), "x")
	p.entry("in a file", e, err)
	e, err = p.Lookup(p.find("mnt"), "inside")
	p.entry("in a mount", e, err)
	e, err = p.Lookup(p.find("folder/deep"), "deeper")
	p.entry("deep", e, err)
	first, again := p.find("file"), p.find("folder/other")
	p.value("hard link is the same node", first == again, nil)
}

// short keeps labels legible.
func short(name string) string {
	if len(name) > 20 {
		return fmt.Sprintf("%s*%d", name[:1], len(name))
	}
	return fmt.Sprintf("%q", name)
}

func getattr(p *probe) {
	for _, path := range []string{".", "file", "link", "folder", "null", "mnt"} {
		b, err := p.raw(fp.OpGetattr, p.find(path), fp.Size[fp.AttrOut](), bytesOf(fp.GetattrIn{}))
		p.attr(path, decode[fp.AttrOut](b), err)
	}
	node := p.find("file")
	fh, err := p.Open(node, unix.O_RDONLY)
	p.errno("open", err)
	b, err := p.raw(fp.OpGetattr, node, fp.Size[fp.AttrOut](), bytesOf(fp.GetattrIn{GetattrFlags: fp.GetattrFh, Fh: fh}))
	p.attr("by handle", decode[fp.AttrOut](b), err)
}

func readdir(p *probe) {
	for _, path := range []string{".", "folder", "folder/deep/deeper", "mnt"} {
		p.listing(path, p.find(path), false)
		if fp.InitFlags(p.Init.Flags)&fp.InitDoReaddirplus != 0 {
			p.listing("plus:"+path, p.find(path), true)
		}
	}
	p.listing("file", p.find("file"), false)
	node := p.find("folder")
	fh, err := p.Opendir(node)
	p.errno("opendir", err)
	// Piece by piece, and then from the middle again.
	var names []string
	var middle uint64
	off := uint64(0)
	for {
		list, err := p.Readdir(node, fh, off, 300, false)
		if err != nil || len(list) == 0 {
			p.value("pieces", len(names), err)
			break
		}
		for _, e := range list {
			names = append(names, e.Name)
			off = e.Off
			if len(names) == 20 {
				middle = e.Off
			}
		}
	}
	list, err := p.Readdir(node, fh, middle, 4096, false)
	p.value("again", len(list), err)
	if len(list) > 0 && len(names) > 20 {
		p.value("again goes on", list[0].Name == names[20], nil)
	}
	_, err = p.Readdir(node, fh, 0, 16, false)
	p.errno("too small", err)
	_, err = p.Readdir(node, fh, 0, 0, false)
	p.errno("nothing", err)
	_, err = p.Readdir(node, fh, 0, 4096, true)
	p.errno("plus, agreed or not", err)
	p.errno("fsyncdir", p.simple(fp.OpFsyncdir, node, bytesOf(fp.FsyncIn{Fh: fh})))
	p.errno("releasedir", p.Releasedir(node, fh))
}

// simple sends a request whose reply is only an errno.
func (p *probe) simple(op fp.Opcode, node uint64, parts ...any) error {
	_, err := p.raw(op, node, 0, parts...)
	return err
}

func readlink(p *probe) {
	for _, name := range []string{"link", "dangling", "long", "file", "folder"} {
		target, err := p.Readlink(p.find(name))
		p.value(name, target, err)
	}
}

func statfs(p *probe) {
	for _, path := range []string{".", "file", "mnt", "link"} {
		s, err := p.Statfs(p.find(path))
		p.value(path, fmt.Sprint(s.Blocks, s.Files, s.Bsize, s.Frsize, s.NameLen), err)
	}
}

func access(p *probe) {
	for _, id := range []uint32{0, 1000, 3000} {
		p.UID, p.GID = id, id
		for _, name := range []string{"file", "exec", "private", "closed", "home", "null", "link"} {
			for mask := range uint32(8) {
				p.errno(fmt.Sprintf("%d/%s/%d", id, name, mask), p.simple(fp.OpAccess, p.findAsRoot(name), bytesOf(fp.AccessIn{Mask: mask})))
			}
		}
		p.errno(fmt.Sprintf("%d/bad mask", id), p.simple(fp.OpAccess, p.findAsRoot("file"), bytesOf(fp.AccessIn{Mask: 64})))
	}
	p.UID, p.GID = 0, 0
}

// findAsRoot is find as root, who is refused nothing.
func (p *probe) findAsRoot(path string) uint64 {
	uid, gid := p.UID, p.GID
	p.UID, p.GID = 0, 0
	defer func() { p.UID, p.GID = uid, gid }()
	return p.find(path)
}

func open(p *probe) {
	for _, name := range []string{"file", "private", "folder", "link", "fifo", "socket", "null", "closed", "home", "sticky"} {
		p.opened(name, fp.OpOpen, p.find(name), unix.O_RDONLY)
		p.opened(name+" as a directory", fp.OpOpendir, p.find(name), unix.O_RDONLY|unix.O_DIRECTORY)
	}
	p.UID, p.GID = 3000, 3000
	for _, name := range []string{"file", "private", "closed", "home"} {
		p.opened("user:"+name, fp.OpOpen, p.findAsRoot(name), unix.O_RDONLY)
		p.opened("user:dir:"+name, fp.OpOpendir, p.findAsRoot(name), unix.O_RDONLY)
	}
	p.UID, p.GID = 0, 0
}

func openFlags(p *probe) {
	node := p.find("data")
	for _, f := range []struct {
		name  string
		flags uint32
	}{
		{"wronly", unix.O_WRONLY}, {"rdwr", unix.O_RDWR}, {"accmode", 3}, {"append", unix.O_WRONLY | unix.O_APPEND},
		{"direct", unix.O_RDONLY | unix.O_DIRECT}, {"noatime", unix.O_RDONLY | unix.O_NOATIME}, {"sync", unix.O_RDWR | unix.O_SYNC},
		{"nofollow", unix.O_RDONLY | unix.O_NOFOLLOW}, {"creat", unix.O_RDWR | unix.O_CREAT}, {"excl", unix.O_RDWR | unix.O_CREAT | unix.O_EXCL},
		{"path", unix.O_PATH}, {"tmpfile", unix.O_TMPFILE | unix.O_RDWR}, {"directory", unix.O_RDONLY | unix.O_DIRECTORY},
		{"nonblock", unix.O_RDONLY | unix.O_NONBLOCK}, {"trunc", unix.O_RDWR | unix.O_TRUNC},
	} {
		fh := p.opened(f.name, fp.OpOpen, node, f.flags)
		b, err := p.Read(node, fh, 0, 5)
		p.value(f.name+": read", string(b), err)
		n, err := p.Write(node, fh, 0, []byte("written"))
		p.value(f.name+": write", n, err)
		p.errno(f.name+": release", p.Release(node, fh))
	}
	b, err := p.raw(fp.OpGetattr, node, fp.Size[fp.AttrOut](), bytesOf(fp.GetattrIn{}))
	p.attr("in the end", decode[fp.AttrOut](b), err)
}

func read(p *probe) {
	for _, f := range []struct {
		path string
		off  uint64
		size int
	}{
		{"file", 0, 100}, {"file", 5, 3}, {"file", 10, 10}, {"file", 1 << 40, 10}, {"file", 1<<63 - 1, 10}, {"file", 0, 0},
		{"empty", 0, 4096}, {"big", 0, 1 << 20}, {"big", 319990, 100}, {"big", 65536, 65536}, {"sparse", 1<<20 - 8, 16}, {"mnt/inside", 8, 5},
	} {
		node := p.find(f.path)
		fh, err := p.Open(node, unix.O_RDONLY)
		if err != nil {
			p.errno(f.path, err)
			continue
		}
		b, err := p.Read(node, fh, f.off, f.size)
		text := string(b)
		if len(b) > 100 {
			text = fmt.Sprintf("%d bytes, %s...%s", len(b), b[:8], b[len(b)-8:])
		}
		p.value(fmt.Sprintf("%s at %d, %d", f.path, f.off, f.size), text, err)
		p.errno("release", p.Release(node, fh))
	}
}

func write(p *probe) {
	e, err := p.Create(1, "written", unix.O_RDWR, 0o644)
	node, fh := p.created("create", e, err)
	for _, w := range []struct {
		off  uint64
		size int
	}{{0, 10}, {5, 10}, {100000, 3}, {1 << 40, 1}, {1<<63 - 1, 2}, {20, 0}, {0, 1 << 20}} {
		n, err := p.Write(node, fh, w.off, []byte(strings.Repeat("w", w.size)))
		p.value(fmt.Sprintf("%d at %d", w.size, w.off), n, err)
	}
	b, err := p.raw(fp.OpGetattr, node, fp.Size[fp.AttrOut](), bytesOf(fp.GetattrIn{}))
	out := decode[fp.AttrOut](b)
	out.Attr.Blocks = 0 // depends on how much the file system has written to the disk
	p.attr("size", out, err)
	ro, err := p.Open(p.find("file"), unix.O_RDONLY)
	p.errno("open to read", err)
	_, err = p.Write(p.find("file"), ro, 0, []byte("x"))
	p.errno("to a file that is open to read", err)
	// A write of a guest that wants setuid bits cleared.
	node = p.find("setuid")
	if fh, err = p.Open(node, unix.O_WRONLY); err == nil {
		in := fp.WriteIn{Fh: fh, Size: 1, WriteFlags: fp.WriteKillSuidgid}
		_, err = p.Do(&frontend.Request{Op: fp.OpWrite, NodeID: node, Body: bytesOf(in), Data: []byte("y"), Reply: fp.Size[fp.WriteOut]()})
	}
	p.errno("kill setuid", err)
	a, err := p.Getattr(node)
	p.value("mode after it", fmt.Sprintf("%o", a.Mode), err)
}

func create(p *probe) {
	dir := p.find("open")
	for _, f := range []struct {
		name  string
		flags uint32
		mode  uint32
	}{
		{"plain", unix.O_RDWR, 0o644}, {"again", unix.O_RDWR, 0o600}, {"again", unix.O_RDWR, 0o644}, {"excl", unix.O_WRONLY | unix.O_EXCL, 0o600},
		{"excl", unix.O_WRONLY | unix.O_EXCL, 0o600}, {"suid", unix.O_RDWR, 0o6777}, {"sticky", unix.O_RDWR, 0o1777},
		{"append", unix.O_WRONLY | unix.O_APPEND, 0o644}, {"direct", unix.O_RDWR | unix.O_DIRECT, 0o644}, {"trunc", unix.O_RDWR | unix.O_TRUNC, 0o644},
		{"rdonly", unix.O_RDONLY, 0o444}, {"kind", unix.O_RDWR, unix.S_IFREG | 0o640}, {"a/b", unix.O_RDWR, 0o644}, {"..", unix.O_RDWR, 0o644},
		{longName + "n", unix.O_RDWR, 0o644}, {"", unix.O_RDWR, 0o644},
	} {
		out, err := p.Create(dir, f.name, f.flags, f.mode)
		node, fh := p.created(short(f.name), out, err)
		if err == nil {
			p.errno(short(f.name)+": release", p.Release(node, fh))
		}
	}
	// Umask is the guest's business, unless it has asked the daemon to apply
	// it.
	b, err := p.raw(fp.OpCreate, dir, fp.Size[fp.CreateOut](), bytesOf(fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o666, Umask: 0o027}), "umask")
	p.created("umask", decode[fp.CreateOut](b), err)
	for _, path := range []string{"folder", "fifo", "link", "dangling", "file"} {
		out, err := p.Create(1, path, unix.O_RDWR, 0o644)
		p.created("over:"+path, out, err)
	}
	out, err := p.Create(p.find("sgid"), "inherits", unix.O_RDWR, 0o2775)
	p.created("sgid", out, err)
}

func users(p *probe) {
	p.UID, p.GID = 1000, 1000
	for _, path := range []string{".", "open", "home", "closed", "sticky", "sgid"} {
		dir := p.findAsRoot(path)
		out, err := p.Create(dir, "user", unix.O_RDWR, 0o640)
		p.created("create in "+path, out, err)
		e, err := p.Mkdir(dir, "userdir", 0o2750)
		p.entry("mkdir in "+path, e, err)
		e, err = p.Mknod(dir, "userfifo", unix.S_IFIFO|0o622, 0)
		p.entry("mknod in "+path, e, err)
		e, err = p.Symlink(dir, "userlink", "x")
		p.entry("symlink in "+path, e, err)
		e, err = p.Mknod(dir, "userdev", unix.S_IFCHR|0o622, 259)
		p.entry("device in "+path, e, err)
	}
	out, err := p.Create(p.findAsRoot("sgid"), "grouped", unix.O_RDWR, 0o2770, 2000)
	p.created("create with a group", out, err)
	p.errno("unlink of another's", p.Unlink(p.findAsRoot("open"), "plain"))
	p.errno("unlink in closed", p.Unlink(p.findAsRoot("home"), "user"))
	for _, path := range []string{"private", "file", "home"} {
		b, err := p.raw(fp.OpSetattr, p.findAsRoot(path), fp.Size[fp.AttrOut](), bytesOf(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o711}))
		p.attr("chmod "+path, decode[fp.AttrOut](b), err)
	}
	p.UID, p.GID = 0, 0
}

func mknod(p *probe) {
	dir := p.find("open")
	for _, f := range []struct {
		name string
		mode uint32
		rdev uint32
	}{
		{"m-file", unix.S_IFREG | 0o644, 0}, {"m-fifo", unix.S_IFIFO | 0o600, 0}, {"m-sock", unix.S_IFSOCK | 0o700, 0},
		{"m-chr", unix.S_IFCHR | 0o666, uint32(unix.Mkdev(5, 1))}, {"m-blk", unix.S_IFBLK | 0o660, uint32(unix.Mkdev(8, 300))},
		{"m-dir", unix.S_IFDIR | 0o755, 0}, {"m-lnk", unix.S_IFLNK | 0o777, 0}, {"m-none", 0o600, 0}, {"m-file", unix.S_IFREG | 0o600, 0},
		{"m-suid", unix.S_IFREG | 0o6755, 0}, {"..", unix.S_IFREG | 0o600, 0},
	} {
		e, err := p.Mknod(dir, f.name, f.mode, f.rdev)
		p.entry(f.name, e, err)
	}
}

func mkdir(p *probe) {
	for _, f := range []struct {
		dir, name string
		mode      uint32
	}{
		{"open", "d", 0o755}, {"open", "d", 0o755}, {"sgid", "d", 0o755}, {"open", "d-sticky", 0o1777}, {"open", "d-sgid", 0o2755},
		{"open", "..", 0o755}, {"open", ".", 0o755}, {"open", "", 0o755}, {"open", "a/b", 0o755}, {"file", "d", 0o755}, {"open", longName + "n", 0o755}, {".", "mnt", 0o700},
	} {
		e, err := p.Mkdir(p.find(f.dir), f.name, f.mode)
		p.entry(f.dir+"/"+short(f.name), e, err)
	}
	b, err := p.raw(fp.OpMkdir, p.find("open"), fp.Size[fp.EntryOut](), bytesOf(fp.MkdirIn{Mode: 0o777, Umask: 0o027}), "d-umask")
	p.entry("umask", decode[fp.EntryOut](b), err)
}

func link(p *probe) {
	open := p.find("open")
	for _, f := range []struct{ from, dir, name string }{
		{"file", "open", "l-file"}, {"file", "open", "l-file"}, {"link", "open", "l-link"}, {"folder", "open", "l-folder"}, {"fifo", "open", "l-fifo"},
		{"file", "mnt", "l-file"}, {"file", "open", ".."}, {"file", "open", "a/b"}, {"file", "file", "x"}, {"file", "open", longName + "n"},
	} {
		e, err := p.Link(p.find(f.from), p.find(f.dir), f.name)
		p.entry(f.from+" as "+f.dir+"/"+short(f.name), e, err)
	}
	for _, f := range []struct{ name, target string }{
		{"s-plain", "file"}, {"s-plain", "file"}, {"s-abs", "/etc/passwd"}, {"s-long", strings.Repeat("t", 4095)}, {"s-empty", ""}, {"..", "x"}, {"a/b", "x"},
	} {
		e, err := p.Symlink(open, f.name, f.target)
		p.entry("symlink "+short(f.name), e, err)
	}
}

func rename(p *probe) {
	open, home := p.find("open"), p.find("home")
	for _, name := range []string{"r1", "r2", "r3", "r4", "r5"} {
		out, err := p.Create(open, name, unix.O_RDWR, 0o600)
		p.created("make "+name, out, err)
	}
	for _, name := range []string{"rd1", "rd2", "rd3"} {
		e, err := p.Mkdir(open, name, 0o700)
		p.entry("make "+name, e, err)
	}
	for _, f := range []struct {
		from  string
		dir   uint64
		to    string
		flags uint32
	}{
		{"r1", open, "r1-new", 0}, {"r1-new", home, "moved", 0}, {"nosuch", open, "x", 0}, {"r2", open, "r3", 0}, {"r3", open, "r3", 0},
		{"r3", open, "rd1", 0}, {"rd1", open, "r3", 0}, {"rd1", open, "rd2", 0}, {"rd2", open, "..", 0}, {"..", open, "x", 0}, {"r4", open, "a/b", 0},
		{"r4", open, "r5", unix.RENAME_NOREPLACE}, {"r4", open, "r4-new", unix.RENAME_NOREPLACE}, {"r4-new", open, "r5", unix.RENAME_EXCHANGE},
		{"r5", open, "nosuch", unix.RENAME_EXCHANGE}, {"r5", open, "x", unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE}, {"rd3", p.find("mnt"), "rd3", 0}, {"rd3", open, longName + "n", 0},
	} {
		p.errno(fmt.Sprintf("%s to %s, %#x", f.from, short(f.to), f.flags), p.Rename(open, f.from, f.dir, f.to, f.flags))
	}
	p.errno("into itself", p.Rename(open, "rd3", p.find("open/rd3"), "x", 0))
	p.listing("in the end", open, false)
	p.errno("unknown flag", p.Rename(open, "r5", open, "x", 1<<20))
	p.errno("whiteout", p.Rename(open, "r4-new", open, "white", unix.RENAME_WHITEOUT))
}

func unlink(p *probe) {
	open := p.find("open")
	for _, name := range []string{"u1", "u2"} {
		out, err := p.Create(open, name, unix.O_RDWR, 0o600)
		p.created("make "+name, out, err)
	}
	e, err := p.Mkdir(open, "ud", 0o700)
	p.entry("make ud", e, err)
	out, err := p.Create(e.NodeID, "inside", unix.O_RDWR, 0o600)
	node, fh := p.created("make ud/inside", out, err)
	for _, name := range []string{"u1", "u1", "ud", "..", ".", "", "a/b", longName + "n"} {
		p.errno("unlink "+short(name), p.Unlink(open, name))
	}
	for _, name := range []string{"u2", "ud", "nosuch", "..", ".", ""} {
		p.errno("rmdir "+short(name), p.Rmdir(open, name))
	}
	p.errno("rmdir of a mount", p.Rmdir(1, "mnt"))
	p.errno("unlink of an open file", p.Unlink(e.NodeID, "inside"))
	p.errno("rmdir of its directory", p.Rmdir(open, "ud"))
	n, err := p.Write(node, fh, 0, []byte("still there"))
	p.value("write to it", n, err)
	a, err := p.Getattr(node)
	p.value("links of it", a.Nlink, err)
	b, err := p.Read(node, fh, 0, 100)
	p.value("read of it", string(b), err)
	p.errno("release of it", p.Release(node, fh))
	_, err = p.Create(e.NodeID, "new", unix.O_RDWR, 0o600)
	p.errno("create in a removed directory", err)
}
