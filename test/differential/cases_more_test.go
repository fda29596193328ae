package differential

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func setattr(p *probe) {
	e, err := p.Create(p.find("open"), "attributes", unix.O_RDWR, 0o644)
	node, fh := p.created("create", e, err)
	set := func(label string, node uint64, in fp.SetattrIn) {
		b, err := p.raw(fp.OpSetattr, node, fp.Size[fp.AttrOut](), bytesOf(in))
		p.attr(label, decode[fp.AttrOut](b), err)
	}
	for _, s := range []struct {
		label string
		in    fp.SetattrIn
	}{
		{"mode", fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600}}, {"mode with kind", fp.SetattrIn{Valid: fp.FattrMode, Mode: unix.S_IFDIR | 0o640}},
		{"suid", fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o6755}}, {"owner", fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID, UID: 1000, GID: 2000}},
		{"uid", fp.SetattrIn{Valid: fp.FattrUID, UID: 5}}, {"gid", fp.SetattrIn{Valid: fp.FattrGID, GID: 6}}, {"suid again", fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o6755}},
		{"size", fp.SetattrIn{Valid: fp.FattrSize, Size: 100}}, {"size by handle", fp.SetattrIn{Valid: fp.FattrSize | fp.FattrFh, Size: 50, Fh: fh}},
		{"suid once more", fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o6755}},
		{"size and kill", fp.SetattrIn{Valid: fp.FattrSize | fp.FattrKillSuidgid, Size: 10}},
		{"size too large", fp.SetattrIn{Valid: fp.FattrSize, Size: 1 << 63}},
		{"times", fp.SetattrIn{Valid: fp.FattrAtime | fp.FattrMtime, Atime: 1000, AtimeNsec: 5, Mtime: 2000, MtimeNsec: 6}},
		{"mtime", fp.SetattrIn{Valid: fp.FattrMtime, Mtime: 3000}}, {"bad mtime", fp.SetattrIn{Valid: fp.FattrMtime, Mtime: 3000, MtimeNsec: 1e9}},
		{"old mtime", fp.SetattrIn{Valid: fp.FattrMtime, Mtime: ^uint64(99)}},
		{"mtime now", fp.SetattrIn{Valid: fp.FattrMtime | fp.FattrMtimeNow}}, {"ctime", fp.SetattrIn{Valid: fp.FattrCtime, Ctime: 5}},
		{"nothing", fp.SetattrIn{}}, {"unknown", fp.SetattrIn{Valid: 1 << 20}}, {"bad handle", fp.SetattrIn{Valid: fp.FattrMtime | fp.FattrFh, Mtime: 5, Fh: 1 << 40}},
	} {
		set(s.label, node, s.in)
	}
	set("mode of a link", p.find("link"), fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600})
	set("owner of a link", p.find("link"), fp.SetattrIn{Valid: fp.FattrUID, UID: 1000})
	set("time of a link", p.find("link"), fp.SetattrIn{Valid: fp.FattrMtime, Mtime: 7})
	set("size of a directory", p.find("open"), fp.SetattrIn{Valid: fp.FattrSize, Size: 1})
	set("mode of a directory", p.find("open"), fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o777})
	set("mode of a fifo", p.find("fifo"), fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o666})
}

func space(p *probe) {
	e, err := p.Create(p.find("open"), "space", unix.O_RDWR, 0o644)
	node, fh := p.created("create", e, err)
	for _, f := range []struct {
		off, length uint64
		mode        uint32
	}{
		{0, 8192, 0}, {8192, 8192, unix.FALLOC_FL_KEEP_SIZE}, {0, 4096, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE},
		{0, 4096, unix.FALLOC_FL_ZERO_RANGE}, {0, 4096, unix.FALLOC_FL_COLLAPSE_RANGE}, {0, 4096, unix.FALLOC_FL_INSERT_RANGE},
		{0, 0, 0}, {1 << 63, 1, 0}, {0, 4096, unix.FALLOC_FL_PUNCH_HOLE}, {0, 4096, 1 << 20},
	} {
		p.errno(fmt.Sprintf("fallocate %d+%d, %#x", f.off, f.length, f.mode), p.Fallocate(node, fh, f.off, f.length, f.mode))
	}
	p.errno("fallocate of a directory", p.Fallocate(p.find("open"), 99, 0, 1, 0))
	sparse := p.find("sparse")
	fh, err = p.Open(sparse, unix.O_RDONLY)
	p.errno("open sparse", err)
	for _, l := range []struct {
		off    uint64
		whence uint32
	}{{0, unix.SEEK_DATA}, {0, unix.SEEK_HOLE}, {1 << 20, unix.SEEK_HOLE}, {2 << 20, unix.SEEK_DATA}, {0, unix.SEEK_END}, {5, unix.SEEK_SET}, {0, unix.SEEK_CUR}, {0, 77}, {1 << 63, unix.SEEK_DATA}} {
		off, err := p.Lseek(sparse, fh, l.off, l.whence)
		p.value(fmt.Sprintf("lseek %d, %d", l.off, l.whence), off, err)
	}
	p.copyRange(node)
}

// copyRange sends COPY_FILE_RANGE, the form with a reply of 32 bits.
func (p *probe) copyRange(to uint64) {
	from := p.find("file")
	in, err1 := p.Open(from, unix.O_RDONLY)
	out, err2 := p.Open(to, unix.O_RDWR)
	p.errno("open to copy", err1)
	p.errno("open to copy to", err2)
	for _, c := range []fp.CopyFileRangeIn{
		{FhIn: in, FhOut: out, NodeIDOut: to, Len: 4}, {FhIn: in, FhOut: out, NodeIDOut: to, OffIn: 5, OffOut: 100, Len: 1 << 30},
		{FhIn: in, FhOut: out, NodeIDOut: to, OffIn: 100, Len: 4}, {FhIn: in, FhOut: out, NodeIDOut: to, Len: 4, Flags: 1},
		{FhIn: in, FhOut: 1 << 40, NodeIDOut: to, Len: 4}, {FhIn: in, FhOut: out, NodeIDOut: to, OffIn: 1 << 63, Len: 4},
	} {
		b, err := p.raw(fp.OpCopyFileRange, from, fp.Size[fp.WriteOut](), bytesOf(c))
		p.value(fmt.Sprintf("copy %d+%d to %d, %d", c.OffIn, c.Len, c.OffOut, c.Flags), decode[fp.WriteOut](b).Size, err)
	}
	fh, err := p.Open(to, unix.O_RDONLY)
	p.errno("open the copy", err)
	b, err := p.Read(to, fh, 0, 200)
	p.value("read the copy", string(bytes.Trim(b, "\x00")), err)
}

func xattr(p *probe) {
	node := p.find("file")
	get := func(node uint64, name string, size int) {
		b, err := p.Getxattr(node, name, size)
		text := string(b)
		if size == 0 && err == nil {
			text = fmt.Sprint(decode[fp.GetxattrOut](b).Size)
		}
		p.value(fmt.Sprintf("get %s, %d", short(name), size), text, err)
	}
	for _, name := range []string{"user.one", "user.nosuch", "trusted.one", "security.one", "security.capability", "security.selinux",
		"system.posix_acl_access", "system.posix_acl_default", "nonsense", "user.", "", strings.Repeat("x", 300)} {
		get(node, name, 0)
		get(node, name, 100)
	}
	get(node, "user.one", 1)
	p.errno("set two", p.setxattr(node, "user.two", "22", 0))
	p.errno("set two again, create", p.setxattr(node, "user.two", "33", unix.XATTR_CREATE))
	p.errno("set three, replace", p.setxattr(node, "user.three", "3", unix.XATTR_REPLACE))
	p.errno("set trusted", p.setxattr(node, "trusted.one", "t", 0))
	p.errno("set security", p.setxattr(node, "security.one", "s", 0))
	p.errno("set nonsense", p.setxattr(node, "nonsense", "s", 0))
	p.errno("set with bad flags", p.setxattr(node, "user.four", "s", 64))
	p.errno("set empty", p.setxattr(node, "user.empty", "", 0))
	p.errno("set large", p.setxattr(node, "user.large", strings.Repeat("l", 2000), 0))
	get(node, "user.large", 100)
	for _, size := range []int{0, 4, 4000} {
		if size == 0 {
			b, err := p.raw(fp.OpListxattr, node, 8, bytesOf(fp.GetxattrIn{}))
			p.value("list, 0", decode[fp.GetxattrOut](b).Size, err)
			continue
		}
		names, err := p.Listxattr(node, size)
		slices.Sort(names)
		p.value(fmt.Sprintf("list, %d", size), names, err)
	}
	for _, name := range []string{"user.two", "user.two", "trusted.one", "security.one", "user.large", "user.empty", "nonsense"} {
		p.errno("remove "+name, p.Removexattr(node, name))
	}
	for _, path := range []string{"folder", "link", "fifo", "null"} {
		p.errno("user, "+path, p.setxattr(p.find(path), "user.a", "1", 0))
		p.errno("trusted, "+path, p.setxattr(p.find(path), "trusted.a", "1", 0))
		get(p.find(path), "trusted.a", 10)
		names, err := p.Listxattr(p.find(path), 1000)
		p.value("list, "+path, names, err)
		p.errno("remove, "+path, p.Removexattr(p.find(path), "trusted.a"))
	}
}

// setxattr sends the form that was agreed.
func (p *probe) setxattr(node uint64, name, value string, flags uint32) error {
	in := bytesOf(fp.SetxattrIn{Size: uint32(len(value)), Flags: flags})
	if fp.InitFlags(p.Init.Flags)&fp.InitSetxattrExt == 0 {
		in = in[:fp.CompatSetxattrInSize]
	}
	return p.simple(fp.OpSetxattr, node, in, name, []byte(value))
}

// posixACL is a list with an entry for user 1000: the kernel's form of version 2.
func posixACL(mask uint16) string {
	var b []byte
	half := func(v uint16) { b = append(b, byte(v), byte(v>>8)) }
	word := func(v uint32) { half(uint16(v)); half(uint16(v >> 16)) }
	word(2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 7, 1000}, {4, 4, ^uint32(0)}, {16, mask, ^uint32(0)}, {32, 4, ^uint32(0)}} {
		half(e.tag)
		half(e.perm)
		word(e.id)
	}
	return string(b)
}

func acl(p *probe) {
	open := p.find("open")
	e, err := p.Mkdir(open, "with-acl", 0o755)
	dir := p.entry("mkdir", e, err)
	p.errno("set default", p.setxattr(dir, "system.posix_acl_default", posixACL(5), 0))
	p.errno("set access", p.setxattr(dir, "system.posix_acl_access", posixACL(7), 0))
	b, err := p.Getxattr(dir, "system.posix_acl_default", 100)
	p.value("get default", fmt.Sprintf("%x", b), err)
	a, err := p.Getattr(dir)
	p.value("mode", fmt.Sprintf("%o", a.Mode), err)
	b, err = p.raw(fp.OpCreate, dir, fp.Size[fp.CreateOut](), bytesOf(fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o666, Umask: 0o077}), "file")
	node, _ := p.created("create under a default", decode[fp.CreateOut](b), err)
	b, err = p.Getxattr(node, "system.posix_acl_access", 100)
	p.value("inherited", fmt.Sprintf("%x", b), err)
	names, err := p.Listxattr(dir, 1000)
	slices.Sort(names)
	p.value("list", names, err)
	p.errno("set nonsense", p.setxattr(dir, "system.posix_acl_access", "nonsense", 0))
	p.errno("remove default", p.Removexattr(dir, "system.posix_acl_default"))
	p.UID, p.GID = 1000, 3000
	p.errno("access by the list", p.simple(fp.OpAccess, dir, bytesOf(fp.AccessIn{Mask: 2})))
	p.UID, p.GID = 0, 0
}

func syncing(p *probe) {
	node := p.find("data")
	fh, err := p.Open(node, unix.O_RDWR)
	p.errno("open", err)
	p.errno("flush", p.Flush(node, fh, 1))
	p.errno("fsync", p.Fsync(node, fh))
	p.errno("fdatasync", p.simple(fp.OpFsync, node, bytesOf(fp.FsyncIn{Fh: fh, FsyncFlags: fp.FsyncFdatasync})))
	p.errno("syncfs", p.simple(fp.OpSyncfs, 1, bytesOf(fp.SyncfsIn{})))
	p.errno("syncfs of a mount", p.simple(fp.OpSyncfs, p.find("mnt"), bytesOf(fp.SyncfsIn{})))
	p.errno("release", p.Release(node, fh))
}

func locks(p *probe) {
	node := p.find("data")
	fh, err := p.Open(node, unix.O_RDWR)
	p.errno("open", err)
	lock := fp.FileLock{Start: 0, End: 10, Type: unix.F_WRLCK, PID: 1}
	p.errno("set", p.Lock(node, fh, 1, lock, 0, false))
	p.errno("set, waiting", p.Lock(node, fh, 1, lock, 0, true))
	p.errno("flock", p.Lock(node, fh, 1, fp.FileLock{Type: unix.F_WRLCK, End: 1<<63 - 1}, fp.LkFlock, false))
	_, err = p.Getlk(node, fh, 2, lock)
	p.errno("get", err)
}

// newer are requests that are newer than virtiofsd, or that it never had.
func newer(p *probe) {
	node := p.find("data")
	fh, err := p.Open(node, unix.O_RDWR)
	p.errno("open", err)
	s, err := p.Statx(node)
	p.value("statx", fmt.Sprintf("%o %d", s.Mode, s.Nlink), err)
	out, err := p.Tmpfile(p.find("open"), unix.O_RDWR, 0o600)
	p.created("tmpfile", out, err)
	_, err = p.CopyFileRange(fp.CopyFileRangeIn{FhIn: fh, FhOut: fh, NodeIDOut: node, OffOut: 1 << 20, Len: 2}, node)
	p.errno("copy_file_range_64", err)
	_, err = p.Ioctl(node, fh, unix.FS_IOC_GETFLAGS, nil, 8)
	p.errno("ioctl GETFLAGS", err)
	_, err = p.Ioctl(node, fh, 0x1234, nil, 8)
	p.errno("ioctl unknown", err)
	_, err = p.raw(fp.OpPoll, node, fp.Size[fp.PollOut](), bytesOf(fp.PollIn{Fh: fh}))
	p.errno("poll", err)
	_, err = p.raw(fp.OpBmap, node, fp.Size[fp.BmapOut](), bytesOf(fp.BmapIn{Blocksize: 4096}))
	p.errno("bmap", err)
	p.errno("setupmapping", p.simple(fp.OpSetupMapping, node, bytesOf(fp.SetupMappingIn{Fh: fh, Len: 1 << 21})))
	p.errno("removemapping", p.simple(fp.OpRemoveMapping, node, bytesOf(fp.RemoveMappingIn{Count: 1}), bytesOf(fp.RemoveMappingOne{Len: 1 << 21})))
	for _, op := range []fp.Opcode{7, 19, 54, 99, 4096} {
		p.errno(fmt.Sprintf("opcode %d", op), p.simple(op, node, bytesOf(fp.ForgetIn{})))
	}
}

func forget(p *probe) {
	e, err := p.Lookup(1, "empty")
	node := p.entry("lookup", e, err)
	p.errno("forget", p.Forget(node, 1000))
	// FORGET has no reply and another queue; a request on the same queue follows it.
	_, err = p.DoOn(p.Queues[0], &frontend.Request{Op: fp.OpStatfs, NodeID: 1, Reply: fp.Size[fp.StatfsOut]()})
	p.errno("after it", err)
	_, err = p.Getattr(node)
	p.errno("getattr of the forgotten", err)
	a, b := p.find("exec"), p.find("sparse")
	batch := slices.Concat(bytesOf(fp.BatchForgetIn{Count: 2}), bytesOf(fp.ForgetOne{NodeID: a, NLookup: 100}), bytesOf(fp.ForgetOne{NodeID: b, NLookup: 100}))
	_, err = p.DoOn(p.Queues[0], &frontend.Request{Op: fp.OpBatchForget, Body: batch, Reply: -1})
	p.errno("batch", err)
	_, err = p.DoOn(p.Queues[0], &frontend.Request{Op: fp.OpStatfs, NodeID: 1, Reply: fp.Size[fp.StatfsOut]()})
	p.errno("after the batch", err)
	_, err = p.Getattr(a)
	p.errno("getattr of the first", err)
	e, err = p.Lookup(1, "empty")
	p.entry("lookup again", e, err)
}

// numbers are forged nodes and handles.
func numbers(p *probe) {
	const none = 1 << 40
	_, err := p.Getattr(none)
	p.errno("getattr", err)
	_, err = p.Lookup(none, "x")
	p.errno("lookup", err)
	_, err = p.Open(none, unix.O_RDONLY)
	p.errno("open", err)
	_, err = p.Opendir(none)
	p.errno("opendir", err)
	_, err = p.Create(none, "x", unix.O_RDWR, 0o600)
	p.errno("create", err)
	p.errno("unlink", p.Unlink(none, "x"))
	p.errno("rename", p.Rename(1, "nosuch", none, "x", 0))
	_, err = p.Statfs(none)
	p.errno("statfs", err)
	_, err = p.Readlink(none)
	p.errno("readlink", err)
	_, err = p.Getattr(0)
	p.errno("node 0", err)
	node := p.find("file")
	_, err = p.Read(node, none, 0, 10)
	p.errno("read", err)
	_, err = p.Write(node, none, 0, []byte("x"))
	p.errno("write", err)
	p.errno("flush", p.Flush(node, none, 1))
	p.errno("fsync", p.Fsync(node, none))
	p.errno("release", p.Release(node, none))
	p.errno("releasedir", p.Releasedir(1, none))
	_, err = p.Readdir(1, none, 0, 4096, false)
	p.errno("readdir", err)
	_, err = p.Lseek(node, none, 0, unix.SEEK_DATA)
	p.errno("lseek", err)
	// A handle that belongs to another node.
	fh, err := p.Open(node, unix.O_RDONLY)
	p.errno("open file", err)
	_, err = p.Read(p.find("private"), fh, 0, 4)
	p.errno("read through another node", err)
	dir, err := p.Opendir(1)
	p.errno("open root", err)
	_, err = p.Read(1, dir, 0, 4)
	p.errno("read of a directory", err)
	_, err = p.Readdir(node, fh, 0, 4096, false)
	p.errno("readdir of a file", err)
}
