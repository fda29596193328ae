package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// pathMax is the longest symbolic link target, its NUL not counted (PATH_MAX - 1).
const pathMax = unix.PathMax - 1

func lookup(t *thread) (int, unix.Errno) {
	name, _, errno := fp.ParseName(t.args)
	if errno != 0 {
		return 0, errno
	}
	return done[fp.EntryOut](t.server.fs.Lookup(&t.request, name, out[fp.EntryOut](t)))
}

func forget(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ForgetIn](t)
	by := t.request.Cell
	if by.Forgotten() == 0 {
		t.server.fs.Forget(by, t.request.Header.NodeID, v.NLookup)
	}
	return 0, 0
}

func batchForget(t *thread) (int, unix.Errno) {
	v, rest := in[fp.BatchForgetIn](t)
	if uint64(v.Count)*uint64(fp.Size[fp.ForgetOne]()) > uint64(len(rest)) {
		return 0, unix.EINVAL
	}
	by := t.request.Cell
	done := by.Forgotten() // by a process that died
	for i := range v.Count {
		var one *fp.ForgetOne
		one, rest, _ = fp.View[fp.ForgetOne](rest)
		if i >= done {
			by.Forgetting(i)
			t.server.fs.Forget(by, one.NodeID, one.NLookup)
		}
	}
	return 0, 0
}

func mknod(t *thread) (int, unix.Errno) {
	v, rest := in[fp.MknodIn](t)
	name, _, errno := fp.ParseName(rest)
	if errno != 0 {
		return 0, errno
	}
	return done[fp.EntryOut](t.server.fs.Mknod(&t.request, v, name, out[fp.EntryOut](t)))
}

func mkdir(t *thread) (int, unix.Errno) {
	v, rest := in[fp.MkdirIn](t)
	name, _, errno := fp.ParseName(rest)
	if errno != 0 {
		return 0, errno
	}
	return done[fp.EntryOut](t.server.fs.Mkdir(&t.request, v, name, out[fp.EntryOut](t)))
}

func symlink(t *thread) (int, unix.Errno) {
	name, rest, errno := fp.ParseName(t.args)
	if errno != 0 {
		return 0, errno
	}
	target, _, errno := fp.ParseString(rest, pathMax, unix.ENAMETOOLONG)
	if errno != 0 {
		return 0, errno
	}
	return done[fp.EntryOut](t.server.fs.Symlink(&t.request, name, target, out[fp.EntryOut](t)))
}

func link(t *thread) (int, unix.Errno) {
	v, rest := in[fp.LinkIn](t)
	name, _, errno := fp.ParseName(rest)
	if errno != 0 {
		return 0, errno
	}
	return done[fp.EntryOut](t.server.fs.Link(&t.request, v, name, out[fp.EntryOut](t)))
}

func unlink(t *thread) (int, unix.Errno) {
	name, _, errno := fp.ParseName(t.args)
	if errno != 0 {
		return 0, errno
	}
	return 0, t.server.fs.Unlink(&t.request, name)
}

func rmdir(t *thread) (int, unix.Errno) {
	name, _, errno := fp.ParseName(t.args)
	if errno != 0 {
		return 0, errno
	}
	return 0, t.server.fs.Rmdir(&t.request, name)
}

func rename(t *thread) (int, unix.Errno) {
	v, rest := in[fp.RenameIn](t)
	t.rename = fp.Rename2In{NewDir: v.NewDir}
	return renameNames(t, &t.rename, rest)
}

func rename2(t *thread) (int, unix.Errno) {
	v, rest := in[fp.Rename2In](t)
	if v.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return 0, unix.EINVAL
	}
	return renameNames(t, v, rest)
}

func renameNames(t *thread, v *fp.Rename2In, names []byte) (int, unix.Errno) {
	oldName, rest, errno := fp.ParseName(names)
	if errno != 0 {
		return 0, errno
	}
	newName, _, errno := fp.ParseName(rest)
	if errno != 0 {
		return 0, errno
	}
	return 0, t.server.fs.Rename(&t.request, v, oldName, newName)
}
