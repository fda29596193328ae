package fstest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readWrite makes random changes to a file and to a model of it.
func readWrite(e *env) {
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	rnd := rand.New(rand.NewPCG(1, 2))
	var model []byte
	for range 300 {
		off := rnd.IntN(300_000)
		switch rnd.IntN(4) {
		case 0, 1:
			data := bytes.Repeat([]byte{byte(rnd.IntN(255) + 1)}, rnd.IntN(70_000))
			if n, err := unix.Pwrite(fd, data, int64(off)); n != len(data) || err != nil {
				e.Fatalf("write %d, %v", n, err)
			}
			if len(data) > 0 {
				model = grow(model, off+len(data))
				copy(model[off:], data)
			}
		case 2:
			e.must(unix.Ftruncate(fd, int64(off)))
			model = grow(model, off)[:off]
		case 3:
			buf := make([]byte, rnd.IntN(200_000)+1)
			n, err := unix.Pread(fd, buf, int64(off))
			var want []byte
			if off < len(model) {
				want = model[off:min(off+len(buf), len(model))]
			}
			if err != nil || !bytes.Equal(buf[:n], want) {
				e.Fatalf("read of %d at %d: %d bytes, %v, want %d", len(buf), off, n, err, len(want))
			}
		}
	}
	e.must(unix.Close(e.dup(fd)))
	e.content("f", string(model))
}

// grow makes b at least n long; what is new is zero.
func grow(b []byte, n int) []byte {
	if n <= len(b) {
		return b
	}
	return append(b, make([]byte, n-len(b))...)
}

func vectors(e *env) {
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	var in [][]byte
	want := ""
	for i := range 1024 {
		b := bytes.Repeat([]byte{byte('a' + i%26)}, i%7)
		in, want = append(in, b), want+string(b)
	}
	n, err := unix.Writev(fd, in)
	if n != len(want) || err != nil {
		e.Fatalf("%d, %v", n, err)
	}
	out := [][]byte{make([]byte, 10), make([]byte, 1000), make([]byte, 10_000)}
	n, err = unix.Preadv(fd, out, 5)
	got := string(bytes.Join(out, nil)[:n])
	if err != nil || got != want[5:] {
		e.Errorf("%d, %v", n, err)
	}
	for _, off := range []int64{-1, -1 << 63} {
		_, err = unix.Pread(fd, make([]byte, 1), off)
		e.want("read before the start", err, unix.EINVAL)
		_, err = unix.Pwrite(fd, make([]byte, 1), off)
		e.want("write before the start", err, unix.EINVAL)
	}
	n, err = unix.Pread(fd, make([]byte, 10), 1<<50)
	if n != 0 || err != nil {
		e.Errorf("read far behind the end: %d, %v", n, err)
	}
}

func sparse(e *env) {
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	const at = 1 << 20
	_, err := unix.Pwrite(fd, []byte("data"), at)
	e.must(err)
	e.must(unix.Ftruncate(fd, 4*at))
	e.must(unix.Fsync(fd))
	seek := func(off int64, whence int) (int64, error) { return unix.Seek(fd, off, whence) }
	data, err := seek(0, unix.SEEK_DATA)
	e.must(err)
	if data == 0 {
		e.Skip("no SEEK_DATA here")
	}
	if data > at || data < at-64<<10 {
		e.Errorf("data begins at %d, was written at %d", data, at)
	}
	hole, err := seek(at, unix.SEEK_HOLE)
	if err != nil || hole <= at || hole > at+64<<10 {
		e.Errorf("a hole at %d, %v", hole, err)
	}
	if hole, err = seek(0, unix.SEEK_HOLE); hole != 0 || err != nil {
		e.Errorf("the first hole is at %d, %v", hole, err)
	}
	_, err = seek(2*at, unix.SEEK_DATA)
	e.want("no more data", err, unix.ENXIO)
	_, err = seek(5*at, unix.SEEK_HOLE)
	e.want("behind the end", err, unix.ENXIO)
	if end, err := seek(0, unix.SEEK_END); end != 4*at || err != nil {
		e.Errorf("the end is at %d, %v", end, err)
	}
}

func fallocate(e *env) {
	text := strings.Repeat("0123456789abcdef", 1024) // 16 KiB
	e.write("f", text)
	fd := e.open("f", unix.O_RDWR, 0)
	e.has("fallocate", unix.Fallocate(fd, 0, 0, 20<<10))
	if st := e.lstat("f"); st.Size != 20<<10 || st.Blocks*512 < 20<<10 {
		e.Errorf("size %d in %d blocks", st.Size, st.Blocks)
	}
	e.must(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 40<<10))
	if st := e.lstat("f"); st.Size != 20<<10 {
		e.Errorf("size %d", st.Size)
	}
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4<<10, 4<<10)
	e.has("punching of holes", err)
	zeros := strings.Repeat("\x00", 4<<10)
	e.must(unix.Close(e.dup(fd)))
	e.content("f", text[:4<<10]+zeros+text[8<<10:]+zeros)
	e.want("no length", unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
	e.want("negative", unix.Fallocate(fd, 0, -1, 10), unix.EINVAL)
	ro := e.open("f", unix.O_RDONLY, 0)
	e.want("read-only descriptor", unix.Fallocate(ro, 0, 0, 10), unix.EBADF)
}

func copyFileRange(e *env) {
	text := strings.Repeat("copy", 20_000)
	e.write("from", text)
	e.write("to", "start")
	from, to := e.open("from", unix.O_RDONLY, 0), e.open("to", unix.O_RDWR, 0)
	offIn, offOut := int64(4), int64(2)
	for want := 70_000; want > 0; {
		n, err := unix.CopyFileRange(from, &offIn, to, &offOut, want, 0)
		e.has("copy_file_range", err)
		if n == 0 {
			e.Fatal("nothing was copied")
		}
		want -= n
	}
	e.must(unix.Close(e.dup(to)))
	e.content("to", "st"+text[4:70_004])
	offIn = int64(len(text))
	if n, err := unix.CopyFileRange(from, &offIn, to, &offOut, 100, 0); n != 0 || err != nil {
		e.Errorf("from the end: %d, %v", n, err)
	}
	_, err := unix.CopyFileRange(to, nil, from, nil, 10, 0)
	e.want("to a file opened for reading", err, unix.EBADF)
}

func mmap(e *env) {
	e.write("f", strings.Repeat("x", 3*4096))
	fd := e.open("f", unix.O_RDWR, 0)
	mem, err := unix.Mmap(fd, 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == unix.ENODEV {
		e.Skip("no shared mappings here")
	}
	e.must(err)
	defer func() { _ = unix.Munmap(mem) }()
	copy(mem[4096:], "mapped")
	buf := make([]byte, 6)
	if _, err := unix.Pread(fd, buf, 4096); string(buf) != "mapped" || err != nil {
		e.Errorf("read %q, %v", buf, err)
	}
	_, err = unix.Pwrite(fd, []byte("written"), 8192)
	e.must(err)
	if got := string(mem[8192:8199]); got != "written" {
		e.Errorf("the mapping holds %q", got)
	}
	e.must(unix.Msync(mem, unix.MS_SYNC))
	x := strings.Repeat("x", 4096)
	e.content("f", x+"mapped"+x[6:]+"written"+x[7:])

	// A page that is written back has its place, also through a file that appends.
	e.write("a", x)
	app := e.open("a", unix.O_RDWR|unix.O_APPEND, 0)
	mem2, err := unix.Mmap(app, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	e.must(err)
	copy(mem2, "first")
	e.must(unix.Msync(mem2, unix.MS_SYNC))
	e.must(unix.Munmap(mem2))
	e.must(unix.Close(e.dup(app)))
	e.content("a", "first"+x[5:])

	priv, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	e.must(err)
	priv[0] = 'P'
	e.must(unix.Munmap(priv))
	if mem[0] != 'x' {
		e.Error("a private change was seen")
	}
}

func directIO(e *env) {
	fd, err := unix.Open(e.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err == unix.EINVAL {
		e.Skip("no O_DIRECT here")
	}
	e.must(err)
	defer unix.Close(fd)
	const size = 64 << 10
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	e.must(err)
	defer func() { _ = unix.Munmap(mem) }()
	for i := range mem {
		mem[i] = byte('a' + i/4096)
	}
	want := string(mem)
	n, err := unix.Pwrite(fd, mem, 0)
	if n != size || err != nil {
		e.Fatalf("write %d, %v", n, err)
	}
	clear(mem)
	n, err = unix.Pread(fd, mem, 4096)
	if n != size-4096 || err != nil || string(mem[:n]) != want[4096:] {
		e.Errorf("read %d, %v", n, err)
	}
	e.content("f", want)
	n, err = unix.Pread(fd, mem, size)
	if n != 0 || err != nil {
		e.Errorf("read at the end: %d, %v", n, err)
	}
}

// directIOMapped writes to files through mappings while they are open with O_DIRECT, as
// xfstests generic/263 does: the last page ends where the file does.
func directIOMapped(e *env) {
	fd, err := unix.Open(e.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err == unix.EINVAL {
		e.Skip("no O_DIRECT here")
	}
	e.must(err)
	defer unix.Close(fd)
	const size = 4096 + 1168
	e.must(unix.Ftruncate(fd, size))
	x := strings.Repeat("x", size)
	e.write("g", x)
	plain := e.open("g", unix.O_RDWR, 0)
	direct, err := unix.Open(e.path("g"), unix.O_RDWR|unix.O_DIRECT, 0)
	e.must(err)
	defer unix.Close(direct)
	for name, fd := range map[string]int{"f": fd, "g": plain} {
		mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err == unix.ENODEV {
			e.Skip("no shared mappings here")
		}
		e.must(err)
		copy(mem, "start")
		copy(mem[size-3:], "end")
		if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
			e.Errorf("msync of %s: %v", name, err)
		}
		e.must(unix.Munmap(mem))
	}
	zero := strings.Repeat("\x00", size)
	e.content("f", "start"+zero[8:]+"end")
	e.content("g", "start"+x[8:]+"end")
	from, to := int64(1), int64(7)
	if n, err := unix.CopyFileRange(direct, &from, fd, &to, 4, 0); n != 4 && err != unix.EINVAL {
		e.Errorf("copy_file_range: %d, %v", n, err)
	}
}

// directIOTurnedOff takes O_DIRECT off an open file, which then reads and writes at any
// place.
func directIOTurnedOff(e *env) {
	fd, err := unix.Open(e.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err == unix.EINVAL {
		e.Skip("no O_DIRECT here")
	}
	e.must(err)
	defer unix.Close(fd)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	e.must(err)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT)
	e.must(err)
	_, err = unix.Pwrite(fd, []byte("0123456789"), 3)
	e.must(err)
	buf := make([]byte, 5)
	if _, err := unix.Pread(fd, buf, 4); err != nil || string(buf) != "12345" {
		e.Errorf("read %q, %v", buf, err)
	}
	e.content("f", "\x00\x00\x000123456789")
}

func syncs(e *env) {
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR|unix.O_DSYNC, 0o644)
	_, err := unix.Write(fd, []byte("data"))
	e.must(err)
	e.want("fsync", unix.Fsync(fd), 0)
	e.want("fdatasync", unix.Fdatasync(fd), 0)
	e.want("sync_file_range", unix.SyncFileRange(fd, 0, 4096, unix.SYNC_FILE_RANGE_WRITE), 0)
	dir, err := unix.Open(e.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	e.must(err)
	defer unix.Close(dir)
	e.want("fsync of a directory", unix.Fsync(dir), 0)
	e.want("syncfs", unix.Syncfs(dir), 0)
	e.content("f", "data")
}

// hostCoherence changes files on one side and looks at them from the other.
func hostCoherence(e *env) {
	if e.host == "" {
		e.Skip("the host can't be seen")
	}
	host := func(name string) string { return filepath.Join(e.host, name) }
	e.must(os.WriteFile(host("new"), []byte("from the host"), 0o644))
	e.eventually("a new file of the host", func() bool {
		b, err := os.ReadFile(e.path("new"))
		return err == nil && string(b) == "from the host"
	})
	e.must(os.WriteFile(host("new"), []byte("changed, and longer than before"), 0o644))
	e.eventually("a change on the host", func() bool {
		b, err := os.ReadFile(e.path("new"))
		return err == nil && string(b) == "changed, and longer than before"
	})
	e.must(os.Rename(host("new"), host("renamed")))
	e.eventually("a rename on the host", func() bool {
		_, errOld := os.Lstat(e.path("new"))
		_, errNew := os.Lstat(e.path("renamed"))
		return os.IsNotExist(errOld) && errNew == nil
	})
	e.must(os.Remove(host("renamed")))
	e.eventually("a removal on the host", func() bool {
		_, err := os.Lstat(e.path("renamed"))
		return os.IsNotExist(err)
	})
	// The same name for another file.
	for i := range 3 {
		want := strings.Repeat("v", i+1)
		_ = os.Remove(host("again"))
		e.must(os.WriteFile(host("again"), []byte(want), 0o644))
		e.eventually("another file of the same name", func() bool {
			b, err := os.ReadFile(e.path("again"))
			return err == nil && string(b) == want
		})
	}
}

// eventually waits for what caches may delay by seconds, and a busy machine by more.
func (e *env) eventually(what string, f func() bool) {
	e.Helper()
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			e.Errorf("%s is not seen after 20 s", what)
			return
		}
	}
}
