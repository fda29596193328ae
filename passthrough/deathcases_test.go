package passthrough

import (
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// notKilled says why an opcode has no case.
var notKilled = map[fp.Opcode]string{
	fp.OpBmap:          "it is not served",
	fp.OpNotifyReply:   "it is not served",
	fp.OpSetupMapping:  "test/dax: the front-end answers",
	fp.OpRemoveMapping: "test/dax: the front-end answers",
	fp.OpInit:          "a case that begins with it: package server",
}

func raw(op fp.Opcode, node func(b *board) uint64, parts ...func(b *board) []byte) step {
	return func(b *board) request {
		r := request{op: op, node: node(b), room: 4096}
		for _, p := range parts {
			r.body = append(r.body, p(b)...)
		}
		return r
	}
}

func root(*board) uint64 { return fp.RootID }

// of is the node of the reply to an earlier request.
func of(i int) func(b *board) uint64 { return func(b *board) uint64 { return b.entry(i) } }

func str(s string) func(*board) []byte { return func(*board) []byte { return append([]byte(s), 0) } }

func text(s string) func(*board) []byte { return func(*board) []byte { return []byte(s) } }

func part[T fp.Body](f func(b *board) T) func(*board) []byte {
	return func(b *board) []byte {
		v := f(b)
		return fp.Bytes(&v)
	}
}

func fixed[T fp.Body](v T) func(*board) []byte {
	return func(*board) []byte { return fp.Bytes(&v) }
}

func as(uid uint32, s step) step {
	return func(b *board) request {
		r := s(b)
		r.uid = uid
		return r
	}
}

func lookupStep(parent func(*board) uint64, name string) step {
	return raw(fp.OpLookup, parent, str(name))
}
func unlinkStep(name string) step { return raw(fp.OpUnlink, root, str(name)) }
func mkdirStep(name string) step {
	return raw(fp.OpMkdir, root, fixed(fp.MkdirIn{Mode: 0o750}), str(name))
}
func openStep(node func(*board) uint64, flags uint32) step {
	return raw(fp.OpOpen, node, fixed(fp.OpenIn{Flags: flags}))
}
func opendirStep(node func(*board) uint64) step { return raw(fp.OpOpendir, node, fixed(fp.OpenIn{})) }
func getattrStep(node func(*board) uint64) step {
	return raw(fp.OpGetattr, node, fixed(fp.GetattrIn{}))
}
func mknodStep(mode, rdev uint32) step {
	return raw(fp.OpMknod, root, fixed(fp.MknodIn{Mode: mode, Rdev: rdev}), str("n"))
}
func symlinkStep() step { return raw(fp.OpSymlink, root, str("l"), str("some/target")) }
func createStep(name string, flags, mode uint32) step {
	return raw(fp.OpCreate, root, fixed(fp.CreateIn{Flags: flags | unix.O_CREAT, Mode: mode}), str(name))
}
func tmpfileStep() step {
	return raw(fp.OpTmpfile, root, fixed(fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o600}), str("/"))
}

// made and opened are the numbers of the open file of a CREATE and an OPEN.
func made(i int) func(*board) uint64     { return func(b *board) uint64 { return b.fhMade(i) } }
func openedBy(i int) func(*board) uint64 { return func(b *board) uint64 { return b.fh(i) } }

func readStep(node, fh func(*board) uint64, size uint32) step {
	return raw(fp.OpRead, node, part(func(b *board) fp.ReadIn { return fp.ReadIn{Fh: fh(b), Size: size} }))
}
func writeStep(node, fh func(*board) uint64, off uint64, flags uint32, data string) step {
	return raw(fp.OpWrite, node, part(func(b *board) fp.WriteIn {
		return fp.WriteIn{Fh: fh(b), Offset: off, Size: uint32(len(data)), Flags: flags}
	}), text(data))
}
func releaseStep(op fp.Opcode, node, fh func(*board) uint64) step {
	return raw(op, node, part(func(b *board) fp.ReleaseIn { return fp.ReleaseIn{Fh: fh(b)} }))
}
func renameStep(from, to string) step {
	return raw(fp.OpRename, root, fixed(fp.RenameIn{NewDir: fp.RootID}), str(from), str(to))
}
func rename2Step(flags uint32) step {
	return raw(fp.OpRename2, root, fixed(fp.Rename2In{NewDir: fp.RootID, Flags: flags}), str("a"), str("b"))
}
func linkStep(node func(*board) uint64, name string) step {
	return raw(fp.OpLink, root, part(func(b *board) fp.LinkIn { return fp.LinkIn{OldNodeID: node(b)} }), str(name))
}
func setattrStep(node func(*board) uint64, in fp.SetattrIn) step {
	return raw(fp.OpSetattr, node, fixed(in))
}
func setxattrStep(flags uint32, value string) step {
	return raw(fp.OpSetxattr, of(1), fixed(fp.SetxattrIn{Size: uint32(len(value)), Flags: flags}), str("user.x"), text(value))
}
func fhStep[T fp.Body](op fp.Opcode, node func(*board) uint64, f func(b *board) T) step {
	return raw(op, node, part(f))
}
func lockStep(op fp.Opcode, fh func(*board) uint64, owner uint64, typ, flags uint32, start, end uint64) step {
	return fhStep(op, of(1), func(b *board) fp.LkIn {
		return fp.LkIn{Fh: fh(b), Owner: owner, LkFlags: flags, Lk: fp.FileLock{Type: typ, Start: start, End: end, PID: 7}}
	})
}

// files makes files with their names as contents, and directories whose names end with a slash.
func files(names ...string) func(dir string) {
	return func(dir string) {
		for _, n := range names {
			path := filepath.Join(dir, n)
			var err error
			if n[len(n)-1] == '/' {
				err = os.Mkdir(path, 0o755)
			} else {
				err = os.WriteFile(path, []byte(n), 0o644)
			}
			if err != nil {
				panic(err)
			}
		}
	}
}

func byXattr(c *Config) { c.Ownership, c.KillprivV2 = OwnershipXattr, false }

// Requests are numbered from 1 on; INIT is 0.
var deathCases = []deathCase{
	{name: "lookup of a file", setup: files("f"), target: lookupStep(root, "f"), after: []step{getattrStep(of(1))}},
	{name: "lookup of a directory", setup: files("d/", "d/f"), target: lookupStep(root, "d"), after: []step{lookupStep(of(1), "f")}},
	{name: "lookup of a known file", setup: files("f"), before: []step{lookupStep(root, "f")}, target: lookupStep(root, "f")},
	{name: "lookup of nothing", target: lookupStep(root, "f")},
	{name: "forget", setup: files("f"), before: []step{lookupStep(root, "f"), lookupStep(root, "f")},
		target: raw(fp.OpForget, of(1), fixed(fp.ForgetIn{NLookup: 1})), after: []step{getattrStep(of(1))}},
	{name: "forget all", setup: files("f"), before: []step{lookupStep(root, "f"), lookupStep(root, "f")},
		target: raw(fp.OpForget, of(1), fixed(fp.ForgetIn{NLookup: 2})), after: []step{getattrStep(of(1))}},
	{name: "batch forget", setup: files("f", "g"), before: []step{lookupStep(root, "f"), lookupStep(root, "g"), lookupStep(root, "f"), lookupStep(root, "f")},
		target: raw(fp.OpBatchForget, root, fixed(fp.BatchForgetIn{Count: 4}),
			part(func(b *board) fp.ForgetOne { return fp.ForgetOne{NodeID: b.entry(1), NLookup: 1} }),
			part(func(b *board) fp.ForgetOne { return fp.ForgetOne{NodeID: b.entry(1), NLookup: 1} }),
			part(func(b *board) fp.ForgetOne { return fp.ForgetOne{NodeID: b.entry(2), NLookup: 1} }),
			part(func(b *board) fp.ForgetOne { return fp.ForgetOne{NodeID: 99, NLookup: 1} })),
		after: []step{getattrStep(of(1)), getattrStep(of(2))}},
	{name: "getattr", setup: files("f"), before: []step{lookupStep(root, "f")}, target: getattrStep(of(1))},
	{name: "statx", setup: files("f"), before: []step{lookupStep(root, "f")}, target: raw(fp.OpStatx, of(1), fixed(fp.StatxIn{}))},
	{name: "access", setup: files("f"), before: []step{lookupStep(root, "f")}, target: raw(fp.OpAccess, of(1), fixed(fp.AccessIn{Mask: 4}))},
	{name: "statfs", target: raw(fp.OpStatfs, root)},
	{name: "readlink", before: []step{symlinkStep()}, target: raw(fp.OpReadlink, of(1))},
	{name: "syncfs", target: raw(fp.OpSyncfs, root, fixed(fp.SyncfsIn{}))},
	{name: "poll", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), 0)},
		target: fhStep(fp.OpPoll, of(1), func(b *board) fp.PollIn { return fp.PollIn{Fh: b.fh(2)} })},
	{name: "interrupt", target: raw(fp.OpInterrupt, root, fixed(fp.InterruptIn{Unique: 99}))},
	{name: "destroy", setup: files("f", "d/"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), lookupStep(root, "d"), unlinkStep("f")},
		target: raw(fp.OpDestroy, root)},

	{name: "setattr of the mode", setup: files("f"), before: []step{lookupStep(root, "f")}, target: setattrStep(of(1), fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600})},
	{name: "setattr of all", setup: files("f"), before: []step{lookupStep(root, "f")},
		target: setattrStep(of(1), fp.SetattrIn{Valid: fp.FattrMode | fp.FattrUID | fp.FattrGID | fp.FattrSize | fp.FattrMtime, Mode: 0o6755, UID: 7, GID: 8, Size: 3, Mtime: 5})},
	{name: "setattr through an open file", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: fhStep(fp.OpSetattr, of(1), func(b *board) fp.SetattrIn {
			return fp.SetattrIn{Valid: fp.FattrSize | fp.FattrFh | fp.FattrKillSuidgid, Fh: b.fh(2), Size: 10}
		})},

	{name: "mkdir", target: mkdirStep("d"), after: []step{getattrStep(of(1)), mkdirStep("d"), lookupStep(of(1), "x")}},
	{name: "mkdir as a user", target: as(1000, mkdirStep("d")), setup: func(dir string) { _ = os.Chmod(dir, 0o777) }},
	{name: "mkdir of what is there", before: []step{mkdirStep("d")}, target: mkdirStep("d")},
	{name: "mknod of a file", target: mknodStep(unix.S_IFREG|0o640, 0), after: []step{openStep(of(1), unix.O_RDWR)}},
	{name: "mknod of a pipe", target: mknodStep(unix.S_IFIFO|0o640, 0)},
	{name: "mknod of a device", target: mknodStep(unix.S_IFCHR|0o640, 1<<8|3)},
	{name: "symlink", target: symlinkStep(), after: []step{raw(fp.OpReadlink, of(1))}},
	{name: "symlink as a user", setup: func(dir string) { _ = os.Chmod(dir, 0o777) }, target: as(1000, symlinkStep())},
	{name: "link", setup: files("f"), before: []step{lookupStep(root, "f")}, target: linkStep(of(1), "g"), after: []step{getattrStep(of(1))}},
	{name: "link of what is there", setup: files("f"), before: []step{lookupStep(root, "f"), linkStep(of(1), "g")}, target: linkStep(of(1), "g")},
	{name: "link of a nameless file", before: []step{tmpfileStep(), writeStep(of(1), made(1), 0, 0, "hello")}, target: linkStep(of(1), "g"),
		after: []step{readStep(of(1), made(1), 10)}},

	{name: "create", target: createStep("f", unix.O_RDWR, 0o640), after: []step{writeStep(of(1), made(1), 0, 0, "hello"), readStep(of(1), made(1), 9)}},
	{name: "create exclusively", target: createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640), after: []step{createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)}},
	{name: "create of a mode that denies", target: createStep("f", unix.O_WRONLY, 0o444), after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "create as a user", setup: func(dir string) { _ = os.Chmod(dir, 0o777) }, target: as(1000, createStep("f", unix.O_RDWR, 0o444)), after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "create of what is there", setup: files("f"), target: createStep("f", unix.O_RDWR, 0o640), after: []step{readStep(of(1), made(1), 9)}},
	{name: "create and truncate", setup: files("f"), target: createStep("f", unix.O_RDWR|unix.O_TRUNC, 0o640), after: []step{readStep(of(1), made(1), 9)}},
	{name: "create exclusively of what is there", setup: files("f"), target: createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)},
	{name: "create exclusively of what was created", before: []step{createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)}, target: createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)},
	{name: "tmpfile", target: tmpfileStep(), after: []step{writeStep(of(1), made(1), 0, 0, "hello"), readStep(of(1), made(1), 9), linkStep(of(1), "named")}},

	{name: "unlink", setup: files("f"), target: unlinkStep("f"), after: []step{unlinkStep("f")}},
	{name: "unlink of a known file", setup: files("f"), before: []step{lookupStep(root, "f")}, target: unlinkStep("f"), after: []step{lookupStep(root, "f")}},
	{name: "unlink of an open file", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)}, target: unlinkStep("f"),
		after: []step{readStep(of(1), openedBy(2), 9), writeStep(of(1), openedBy(2), 0, 0, "more"), getattrStep(of(1))}},
	{name: "unlink of one of two names", setup: files("f"), before: []step{lookupStep(root, "f"), linkStep(of(1), "g"), openStep(of(1), unix.O_RDWR)}, target: unlinkStep("f"),
		after: []step{readStep(of(1), openedBy(3), 9), unlinkStep("g"), readStep(of(1), openedBy(3), 9)}},
	{name: "unlink of what was just made", before: []step{createStep("f", unix.O_RDWR, 0o600), releaseStep(fp.OpRelease, of(1), made(1))}, target: unlinkStep("f")},
	{name: "unlink of nothing", target: unlinkStep("f")},
	{name: "rmdir", setup: files("d/"), before: []step{lookupStep(root, "d")}, target: raw(fp.OpRmdir, root, str("d")), after: []step{lookupStep(root, "d")}},
	{name: "rmdir of what is in use", setup: files("d/", "d/f"), target: raw(fp.OpRmdir, root, str("d"))},

	{name: "rename", setup: files("a"), target: renameStep("a", "b"), after: []step{lookupStep(root, "b"), lookupStep(root, "a")}},
	{name: "rename over an open file", setup: files("a", "b"), before: []step{lookupStep(root, "a"), lookupStep(root, "b"), openStep(of(2), unix.O_RDWR)},
		target: renameStep("a", "b"), after: []step{readStep(of(2), openedBy(3), 9), getattrStep(of(1)), lookupStep(root, "b")}},
	{name: "rename of a directory", setup: files("a/", "a/f"), before: []step{lookupStep(root, "a"), lookupStep(of(1), "f"), openStep(of(2), 0)},
		target: renameStep("a", "b"), after: []step{readStep(of(2), openedBy(3), 9), lookupStep(of(1), "f")}},
	{name: "rename of what was just made", before: []step{createStep("a", unix.O_RDWR, 0o600)}, target: renameStep("a", "b"), after: []step{writeStep(of(1), made(1), 0, 0, "x")}},
	{name: "rename of nothing", target: renameStep("a", "b")},
	{name: "rename noreplace", setup: files("a"), target: rename2Step(unix.RENAME_NOREPLACE), after: []step{lookupStep(root, "b")}},
	{name: "rename noreplace of what is there", setup: files("a", "b"), target: rename2Step(unix.RENAME_NOREPLACE)},
	{name: "rename exchange", setup: files("a", "b"), before: []step{lookupStep(root, "a"), lookupStep(root, "b")}, target: rename2Step(unix.RENAME_EXCHANGE),
		after: []step{openStep(of(1), 0), readStep(of(1), openedBy(4), 9)}},
	{name: "rename whiteout", setup: files("a"), before: []step{lookupStep(root, "a")}, target: rename2Step(unix.RENAME_WHITEOUT)},

	{name: "open", setup: files("f"), before: []step{lookupStep(root, "f")}, target: openStep(of(1), unix.O_RDWR), after: []step{readStep(of(1), openedBy(2), 9)}},
	{name: "open and truncate", setup: files("f"), before: []step{lookupStep(root, "f")}, target: openStep(of(1), unix.O_RDWR|unix.O_TRUNC), after: []step{readStep(of(1), openedBy(2), 9)}},
	{name: "opendir", setup: files("d/"), before: []step{lookupStep(root, "d")}, target: opendirStep(of(1)), after: []step{releaseStep(fp.OpReleasedir, of(1), openedBy(2))}},
	{name: "read", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), 0)}, target: readStep(of(1), openedBy(2), 9)},
	{name: "readdir", setup: files("f", "g"), before: []step{opendirStep(root)},
		target: fhStep(fp.OpReaddir, root, func(b *board) fp.ReadIn { return fp.ReadIn{Fh: b.fh(1), Size: 4096} })},
	{name: "readdirplus", setup: files("f", "g", "h", "d/"), before: []step{opendirStep(root), lookupStep(root, "g")},
		target: fhStep(fp.OpReaddirplus, root, func(b *board) fp.ReadIn { return fp.ReadIn{Fh: b.fh(1), Size: 4096} }), after: []step{lookupStep(root, "f")}},
	{name: "lseek", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), 0)},
		target: fhStep(fp.OpLseek, of(1), func(b *board) fp.LseekIn { return fp.LseekIn{Fh: b.fh(2), Whence: unix.SEEK_HOLE} })},
	{name: "write", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)}, target: writeStep(of(1), openedBy(2), 5, 0, "hello")},
	{name: "write to the end", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR|unix.O_APPEND)},
		target: writeStep(of(1), openedBy(2), 1, unix.O_APPEND, "hello"), after: []step{writeStep(of(1), openedBy(2), 6, unix.O_APPEND, "hello")}},
	{name: "write the same to the end once more", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_WRONLY|unix.O_APPEND),
		writeStep(of(1), openedBy(2), 0, unix.O_APPEND, "hello")}, target: writeStep(of(1), openedBy(2), 0, unix.O_APPEND, "hello")},
	{name: "fallocate", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: fhStep(fp.OpFallocate, of(1), func(b *board) fp.FallocateIn { return fp.FallocateIn{Fh: b.fh(2), Length: 10000} })},
	{name: "fallocate that cuts out", setup: func(dir string) { _ = os.WriteFile(filepath.Join(dir, "f"), make([]byte, 16384), 0o600) },
		before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: fhStep(fp.OpFallocate, of(1), func(b *board) fp.FallocateIn {
			return fp.FallocateIn{Fh: b.fh(2), Length: 4096, Mode: unix.FALLOC_FL_COLLAPSE_RANGE}
		})},
	{name: "copy file range", setup: files("f", "longer name"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), lookupStep(root, "longer name"), openStep(of(3), unix.O_RDWR)},
		target: fhStep(fp.OpCopyFileRange, of(3), func(b *board) fp.CopyFileRangeIn {
			return fp.CopyFileRangeIn{FhIn: b.fh(4), NodeIDOut: b.entry(1), FhOut: b.fh(2), Len: 11}
		})},
	{name: "copy file range 64", setup: files("f", "longer name"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), lookupStep(root, "longer name"), openStep(of(3), unix.O_RDWR)},
		target: fhStep(fp.OpCopyFileRange64, of(3), func(b *board) fp.CopyFileRangeIn {
			return fp.CopyFileRangeIn{FhIn: b.fh(4), NodeIDOut: b.entry(1), FhOut: b.fh(2), Len: 11}
		})},
	{name: "flush", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: fhStep(fp.OpFlush, of(1), func(b *board) fp.FlushIn { return fp.FlushIn{Fh: b.fh(2)} })},
	{name: "fsync", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: fhStep(fp.OpFsync, of(1), func(b *board) fp.FsyncIn { return fp.FsyncIn{Fh: b.fh(2)} })},
	{name: "fsyncdir", before: []step{opendirStep(root)}, target: fhStep(fp.OpFsyncdir, root, func(b *board) fp.FsyncIn { return fp.FsyncIn{Fh: b.fh(1)} })},
	{name: "release", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)}, target: releaseStep(fp.OpRelease, of(1), openedBy(2)),
		after: []step{releaseStep(fp.OpRelease, of(1), openedBy(2))}},
	{name: "release of a removed file", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), unlinkStep("f")},
		target: releaseStep(fp.OpRelease, of(1), openedBy(2))},
	{name: "releasedir", before: []step{opendirStep(root)}, target: releaseStep(fp.OpReleasedir, root, openedBy(1))},
	{name: "ioctl", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), 0)},
		target: raw(fp.OpIoctl, of(1), part(func(b *board) fp.IoctlIn { return fp.IoctlIn{Fh: b.fh(2), Cmd: fsIocSetflags, InSize: 4} }), text("\x80\x00\x08\x00"))},

	{name: "setxattr", setup: files("f"), before: []step{lookupStep(root, "f")}, target: setxattrStep(0, "value")},
	{name: "setxattr create", setup: files("f"), before: []step{lookupStep(root, "f")}, target: setxattrStep(unix.XATTR_CREATE, "value"), after: []step{setxattrStep(unix.XATTR_CREATE, "value")}},
	{name: "setxattr create of what is there", setup: files("f"), before: []step{lookupStep(root, "f"), setxattrStep(0, "value")}, target: setxattrStep(unix.XATTR_CREATE, "value")},
	{name: "getxattr", setup: files("f"), before: []step{lookupStep(root, "f"), setxattrStep(0, "value")}, target: raw(fp.OpGetxattr, of(1), fixed(fp.GetxattrIn{Size: 99}), str("user.x"))},
	{name: "listxattr", setup: files("f"), before: []step{lookupStep(root, "f"), setxattrStep(0, "value")}, target: raw(fp.OpListxattr, of(1), fixed(fp.GetxattrIn{Size: 99}))},
	{name: "removexattr", setup: files("f"), before: []step{lookupStep(root, "f"), setxattrStep(0, "value")}, target: raw(fp.OpRemovexattr, of(1), str("user.x")),
		after: []step{raw(fp.OpRemovexattr, of(1), str("user.x"))}},
	{name: "removexattr of nothing", setup: files("f"), before: []step{lookupStep(root, "f")}, target: raw(fp.OpRemovexattr, of(1), str("user.x"))},

	{name: "mkdir, owner in attributes", edit: byXattr, target: as(1000, mkdirStep("d")), after: []step{mkdirStep("d")}},
	{name: "create, owner in attributes", edit: byXattr, target: as(1000, createStep("f", unix.O_RDWR|unix.O_EXCL, 0o444)), after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "mknod, owner in attributes", edit: byXattr, target: as(1000, mknodStep(unix.S_IFCHR|0o600, 0x103)), after: []step{mknodStep(unix.S_IFCHR|0o600, 0x103)}},
	{name: "symlink, owner in attributes", edit: byXattr, target: as(1000, symlinkStep()), after: []step{raw(fp.OpReadlink, of(1))}},
	{name: "symlink of root's, owner in attributes", edit: byXattr, target: symlinkStep(), after: []step{raw(fp.OpReadlink, of(1))}},
	{name: "setattr, owner in attributes", edit: byXattr, before: []step{createStep("f", unix.O_RDWR, 0o644)},
		target: setattrStep(of(1), fp.SetattrIn{Valid: fp.FattrMode | fp.FattrUID | fp.FattrGID, Mode: 0o755, UID: 7, GID: 8})},

	{name: "flock", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), openStep(of(1), unix.O_RDWR)},
		target: lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_WRLCK, fp.LkFlock, 0, 0),
		after: []step{lockStep(fp.OpSetlk, openedBy(3), 6, unix.F_RDLCK, fp.LkFlock, 0, 0), lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_UNLCK, fp.LkFlock, 0, 0),
			lockStep(fp.OpSetlk, openedBy(3), 6, unix.F_RDLCK, fp.LkFlock, 0, 0)}},
	{name: "flock that may wait", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)},
		target: lockStep(fp.OpSetlkw, openedBy(2), 5, unix.F_RDLCK, fp.LkFlock, 0, 0)},
	{name: "flock ends", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_WRLCK, fp.LkFlock, 0, 0)},
		target: lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_UNLCK, fp.LkFlock, 0, 0)},
	{name: "release of a locked file", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_WRLCK, fp.LkFlock, 0, 0), openStep(of(1), unix.O_RDWR)},
		target: releaseStep(fp.OpRelease, of(1), openedBy(2)), after: []step{lockStep(fp.OpSetlk, openedBy(4), 6, unix.F_WRLCK, fp.LkFlock, 0, 0)}},
	{name: "getlk", setup: files("f"), before: []step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR)}, target: lockStep(fp.OpGetlk, openedBy(2), 5, unix.F_WRLCK, 0, 0, 9)},
}

// labelled appends the security context of a new file to a request.
func labelled(name string, s step) step {
	const value = "system_u:object_r:test"
	return func(b *board) request {
		r := s(b)
		context := append(fp.Bytes(&fp.Secctx{Size: uint32(len(value))}), name+"\x00"+value...)
		context = append(context, make([]byte, -len(context)&7)...)
		header := fp.SecctxHeader{Size: uint32(8 + len(context)), NrSecctx: 1}
		r.body = slices.Concat(r.body, fp.Bytes(&header), context)
		return r
	}
}

func withLabels(c *Config) { c.SecurityLabel = Always }

func byXattrNamed(c *Config) {
	byXattr(c)
	c.noTmpfile = true
}

func giveStep(node func(*board) uint64, uid uint32) step {
	return setattrStep(node, fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID, UID: uid, GID: 8})
}

func readlinkStep(node func(*board) uint64) step { return raw(fp.OpReadlink, node) }

func forgetStep(node func(*board) uint64, count uint64) step {
	return raw(fp.OpForget, node, fixed(fp.ForgetIn{NLookup: count}))
}

// deathCasesOfSteps are requests that take several system calls, none of which may be left half
// done: labels, owners in attributes, symbolic links that get an owner.
var deathCasesOfSteps = []deathCase{
	{name: "mkdir with a label", edit: withLabels, target: labelled("security.test", mkdirStep("d")), after: []step{mkdirStep("d")}},
	{name: "mkdir with a label that is refused", edit: withLabels, target: labelled("user.test", mkdirStep("d")), after: []step{mkdirStep("d")}},
	{name: "mknod with a label", edit: withLabels, target: labelled("security.test", mknodStep(unix.S_IFIFO|0o640, 0))},
	{name: "mknod with a label that is refused", edit: withLabels, target: labelled("user.test", mknodStep(unix.S_IFREG|0o640, 0))},
	{name: "symlink with a label", edit: withLabels, target: labelled("security.test", symlinkStep()), after: []step{readlinkStep(of(1))}},
	{name: "create with a label", edit: withLabels, target: labelled("security.test", createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)),
		after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "create with a label as a user", edit: withLabels, setup: func(dir string) { _ = os.Chmod(dir, 0o777) },
		target: as(1000, labelled("security.test", createStep("f", unix.O_RDWR|unix.O_EXCL, 0o444))), after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "create with a label that is refused", edit: withLabels, target: labelled("user.test", createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)),
		after: []step{createStep("f", unix.O_RDWR|unix.O_EXCL, 0o640)}},
	{name: "tmpfile with a label", edit: withLabels, target: labelled("security.test", tmpfileStep()), after: []step{linkStep(of(1), "named")}},

	{name: "mkdir in a directory with a group, owner in attributes", edit: byXattr,
		before: []step{raw(fp.OpMkdir, root, fixed(fp.MkdirIn{Mode: 0o777}), str("g")), setattrStep(of(1), fp.SetattrIn{Valid: fp.FattrMode | fp.FattrGID, Mode: 0o2777, GID: 9})},
		target: as(1000, raw(fp.OpMkdir, of(1), fixed(fp.MkdirIn{Mode: 0o750}), str("d"))), after: []step{lookupStep(of(1), "d")}},
	{name: "tmpfile, owner in attributes", edit: byXattr, target: as(1000, tmpfileStep()),
		after: []step{writeStep(of(1), made(1), 0, 0, "hello"), linkStep(of(1), "named")}},
	{name: "create, owner in attributes, no O_TMPFILE", edit: byXattrNamed, target: as(1000, createStep("f", unix.O_RDWR|unix.O_EXCL, 0o444)),
		after: []step{writeStep(of(1), made(1), 0, 0, "hello")}},
	{name: "mknod, owner in attributes, no O_TMPFILE", edit: byXattrNamed, target: as(1000, mknodStep(unix.S_IFIFO|0o644, 0))},
	{name: "symlink, owner in attributes, no O_TMPFILE", edit: byXattrNamed, target: as(1000, symlinkStep()), after: []step{readlinkStep(of(1))}},

	{name: "symlink given away", edit: byXattr, before: []step{symlinkStep()}, target: giveStep(of(1), 7),
		after: []step{readlinkStep(of(1)), getattrStep(of(1)), lookupStep(root, "l"), readlinkStep(of(5)), giveStep(of(1), 9)}},
	{name: "symlink given away, no O_TMPFILE", edit: byXattrNamed, before: []step{symlinkStep()}, target: giveStep(of(1), 7),
		after: []step{readlinkStep(of(1)), getattrStep(of(1))}},
	{name: "symlink given away and to root", edit: byXattr, before: []step{symlinkStep(), giveStep(of(1), 7)}, target: giveStep(of(1), 0),
		after: []step{getattrStep(of(1)), lookupStep(root, "l")}},
	{name: "symlink given away that has two names", edit: byXattr, before: []step{symlinkStep(), linkStep(of(1), "m")}, target: giveStep(of(1), 7)},
	{name: "symlink given away, known by both numbers", edit: byXattr, before: []step{symlinkStep(), giveStep(of(1), 7), lookupStep(root, "l")}, target: getattrStep(of(1)),
		after: []step{readlinkStep(of(1)), readlinkStep(of(3)), forgetStep(of(1), 1), readlinkStep(of(3))}},
	{name: "symlink given away is forgotten", edit: byXattr, before: []step{symlinkStep(), giveStep(of(1), 7)}, target: forgetStep(of(1), 1),
		after: []step{lookupStep(root, "l"), readlinkStep(of(4))}},
	{name: "symlink given away is removed", edit: byXattr, before: []step{symlinkStep(), giveStep(of(1), 7)}, target: unlinkStep("l")},
	{name: "symlink given away is renamed", edit: byXattr, before: []step{symlinkStep(), giveStep(of(1), 7)}, target: renameStep("l", "m"),
		after: []step{readlinkStep(of(1)), lookupStep(root, "m")}},
}

func init() { deathCases = append(deathCases, deathCasesOfSteps...) }
