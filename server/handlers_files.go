package server

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func openFile(t *thread) (int, unix.Errno) {
	v, _ := in[fp.OpenIn](t)
	o := out[fp.OpenOut](t)
	return done[fp.OpenOut](t.opened(o, t.server.fs.Open(&t.request, v, o)))
}

func create(t *thread) (int, unix.Errno) {
	v, rest := in[fp.CreateIn](t)
	name, _, errno := fp.ParseName(rest)
	if errno != 0 {
		return 0, errno
	}
	o := out[fp.CreateOut](t)
	return done[fp.CreateOut](t.opened(&o.Open, t.server.fs.Create(&t.request, v, name, o)))
}

// tmpfile does not read the name that Linux sends, "/", which names nothing.
func tmpfile(t *thread) (int, unix.Errno) {
	v, _ := in[fp.CreateIn](t)
	o := out[fp.CreateOut](t)
	return done[fp.CreateOut](t.opened(&o.Open, t.server.fs.Tmpfile(&t.request, v, o)))
}

func read(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ReadIn](t)
	if v.Size > t.session.maxRead || uint64(v.Size) > t.room-uint64(outHeaderSize) {
		return 0, unix.EINVAL
	}
	t.data = t.writeTo.Cut(t.data[:0], uint64(outHeaderSize), uint64(v.Size))
	n, errno := t.server.fs.Read(&t.request, v, t.data)
	return moved(n, v.Size, errno)
}

// moved checks that n bytes of file data were moved, of size that were asked for. More is a
// mistake of the method's.
func moved(n int, size uint32, errno unix.Errno) (int, unix.Errno) {
	if errno == 0 && (n < 0 || uint64(n) > uint64(size)) {
		return 0, unix.EIO
	}
	return n, errno
}

func write(t *thread) (int, unix.Errno) {
	v, _ := in[fp.WriteIn](t)
	if v.Size > t.session.maxWrite || uint64(v.Size) != t.dataLen {
		return 0, unix.EINVAL
	}
	n, errno := t.server.fs.Write(&t.request, v, t.data)
	n, errno = moved(n, v.Size, errno)
	out[fp.WriteOut](t).Size = uint32(n)
	return done[fp.WriteOut](errno)
}

func flush(t *thread) (int, unix.Errno) {
	v, _ := in[fp.FlushIn](t)
	return 0, t.server.fs.Flush(&t.request, v)
}

func release(t *thread) (int, unix.Errno) {
	v, _ := in[fp.ReleaseIn](t)
	return 0, t.released(t.server.fs.Release(&t.request, v))
}

func fsync(t *thread) (int, unix.Errno) {
	v, _ := in[fp.FsyncIn](t)
	return 0, t.server.fs.Fsync(&t.request, v)
}

func fallocate(t *thread) (int, unix.Errno) {
	v, _ := in[fp.FallocateIn](t)
	return 0, t.server.fs.Fallocate(&t.request, v)
}

func lseek(t *thread) (int, unix.Errno) {
	v, _ := in[fp.LseekIn](t)
	return done[fp.LseekOut](t.server.fs.Lseek(&t.request, v, out[fp.LseekOut](t)))
}

// copyFileRange answers with 32 bits: it copies no more than they can say, whole
// pages, as the kernel's caller expects to continue from there.
func copyFileRange(t *thread) (int, unix.Errno) {
	v, _ := in[fp.CopyFileRangeIn](t)
	v.Len = min(v.Len, math.MaxUint32&^0xfff)
	n, errno := t.server.fs.CopyFileRange(&t.request, v)
	out[fp.WriteOut](t).Size = uint32(n)
	return done[fp.WriteOut](errno)
}

func copyFileRange64(t *thread) (int, unix.Errno) {
	v, _ := in[fp.CopyFileRangeIn](t)
	n, errno := t.server.fs.CopyFileRange(&t.request, v)
	out[fp.CopyFileRangeOut](t).BytesCopied = n
	return done[fp.CopyFileRangeOut](errno)
}

// ioctlMax bounds the data of an ioctl, each way, in bytes.
const ioctlMax = 64 << 10

func ioctl(t *thread) (int, unix.Errno) {
	v, data := in[fp.IoctlIn](t)
	o := out[fp.IoctlOut](t)
	head := fp.Size[fp.IoctlOut]()
	if v.InSize > ioctlMax || v.OutSize > ioctlMax || uint64(v.InSize) != uint64(len(data)) ||
		t.room < uint64(outHeaderSize+head)+uint64(v.OutSize) {
		return 0, unix.EINVAL
	}
	buf := t.bulkBuf(head + int(v.OutSize))
	clear(buf)
	n, errno := t.server.fs.Ioctl(&t.request, v, data, o, buf[head:])
	if errno != 0 {
		return 0, errno
	}
	if n < 0 || n > int(v.OutSize) {
		return 0, unix.EIO
	}
	copy(buf, fp.Bytes(o))
	t.reply = buf
	return head + n, 0
}

func poll(t *thread) (int, unix.Errno) {
	v, _ := in[fp.PollIn](t)
	return done[fp.PollOut](t.server.fs.Poll(&t.request, v, out[fp.PollOut](t)))
}

func getlk(t *thread) (int, unix.Errno) {
	v, _ := in[fp.LkIn](t)
	return done[fp.LkOut](t.server.fs.Getlk(&t.request, v, out[fp.LkOut](t)))
}

func setlk(t *thread) (int, unix.Errno) {
	v, _ := in[fp.LkIn](t)
	return 0, t.server.fs.Setlk(&t.request, v, false)
}

func setlkw(t *thread) (int, unix.Errno) {
	v, _ := in[fp.LkIn](t)
	errno := t.server.fs.Setlk(&t.request, v, true)
	if d := t.request.pending; errno == unix.EINTR && d != nil && d.stopped.Load() {
		// Without a signal, Linux would hand the program its own ERESTARTSYS, 512
		// (fs/fuse/file.c: fuse_setlk).
		errno, d.ended = unix.ENOLCK, true
	}
	return 0, errno
}

func setupMapping(t *thread) (int, unix.Errno) {
	v, _ := in[fp.SetupMappingIn](t)
	return 0, t.server.fs.SetupMapping(&t.request, v)
}

func removeMapping(t *thread) (int, unix.Errno) {
	v, _ := in[fp.RemoveMappingIn](t)
	// The list follows four bytes of count without padding, so it is not aligned
	// and is copied.
	rest := t.args[fp.Size[fp.RemoveMappingIn]():]
	one := fp.Size[fp.RemoveMappingOne]()
	if v.Count == 0 || uint64(v.Count)*uint64(one) > uint64(len(rest)) {
		return 0, unix.EINVAL
	}
	t.mappings = slices.Grow(t.mappings[:0], int(v.Count))[:v.Count]
	for i := range t.mappings {
		copy(fp.Bytes(&t.mappings[i]), rest[i*one:])
	}
	return 0, t.server.fs.RemoveMapping(&t.request, t.mappings)
}
