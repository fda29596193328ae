package server

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func opendir(t *thread) (int, unix.Errno) {
	v, _ := in[fp.OpenIn](t)
	return done[fp.OpenOut](t.server.fs.Opendir(&t.request, v, out[fp.OpenOut](t)))
}

func readdir(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ReadIn](t)
	w := t.dirWriter(v)
	errno := t.server.fs.Readdir(&t.request, v, w)
	t.reply = w.buf
	return w.n, errno
}

func readdirplus(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ReadIn](t)
	w := t.dirWriter(v)
	errno := t.server.fs.Readdirplus(&t.request, v, w)
	t.reply = w.buf
	return w.n, errno
}

// dirWriter has as much room as the client asks for, has itself, and we have.
func (t *thread) dirWriter(v *fp.ReadIn) *DirWriter {
	n := min(uint64(v.Size), t.room-uint64(outHeaderSize), bulkSize)
	t.dir = DirWriter{buf: t.bulkBuf(int(n))}
	return &t.dir
}

func releasedir(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ReleaseIn](t)
	return 0, t.server.fs.Releasedir(&t.request, v)
}

func fsyncdir(t *thread) (int, unix.Errno) {
	v, _ := in[fp.FsyncIn](t)
	return 0, t.server.fs.Fsyncdir(&t.request, v)
}
