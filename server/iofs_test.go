package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func TestErrno(t *testing.T) {
	_, missing := os.Stat(filepath.Join(t.TempDir(), "missing"))
	_, invalid := fs.Sub(fstest.MapFS{}, "..")
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{missing, unix.ENOENT},
		{invalid, unix.EINVAL},
		{fmt.Errorf("write: %w", unix.ENOSPC), unix.ENOSPC},
		{&fs.PathError{Op: "open", Path: "x", Err: unix.EPERM}, unix.EPERM},
		{fs.ErrPermission, unix.EACCES},
		{errors.Join(errors.New("x"), fs.ErrExist), unix.EEXIST},
		{WouldBlock, WouldBlock},
		{fmt.Errorf("query: %w", context.DeadlineExceeded), unix.ETIMEDOUT},
		{context.Canceled, unix.EINTR},
		{errors.New("x"), unix.EIO},
	} {
		if got := Errno(c.err); got != c.want {
			t.Errorf("%v is %d, want %d", c.err, got, c.want)
		}
	}
}

// TestAttrOf: what stat(2) says of a file of the host is what AttrOf says.
func TestAttrOf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	link := filepath.Join(dir, "link")
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, make([]byte, 1000), 0o640), os.Symlink("file", link), unix.Mkfifo(fifo, 0o600),
		unix.Chmod(file, 0o6755), unix.Chmod(dir, 0o1777), os.Chtimes(file, time.Time{}, time.Unix(1<<31, 999_999_999))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file, link, fifo, "/dev/null"} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		var want unix.Stat_t
		if err := unix.Lstat(path, &want); err != nil {
			t.Fatal(err)
		}
		got := AttrOf(7, info)
		if got.Ino != 7 || got.Mode != want.Mode || got.Size != uint64(want.Size) || got.Nlink != 1 ||
			got.Mtime != uint64(want.Mtim.Sec) || got.MtimeNsec != uint32(want.Mtim.Nsec) {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// TestAttrOfNoTime: embedded files and directories of archives have no time.
func TestAttrOfNoTime(t *testing.T) {
	info, err := fs.Stat(fstest.MapFS{"file": {}}, "file")
	if err != nil {
		t.Fatal(err)
	}
	if a := AttrOf(1, info); a.Mtime != 0 || a.MtimeNsec != 0 || a.Ctime != 0 || a.Atime != 0 {
		t.Errorf("attributes %+v", a)
	}
}

// TestAddList: a listing goes on where the last reply was full, and ends at any position that
// a client may send.
func TestAddList(t *testing.T) {
	files := fstest.MapFS{"link": {Mode: fs.ModeSymlink}}
	for i := range 20 {
		files[fmt.Sprintf("file%02d", i)] = new(fstest.MapFile)
	}
	list, err := fs.ReadDir(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	var off uint64
	names, replies := 0, 0
	for {
		w := NewDirWriter(make([]byte, 256))
		w.AddList(off, list)
		b := w.Bytes()
		if len(b) == 0 {
			break
		}
		for replies++; len(b) > 0; names++ {
			d, rest, _ := fp.View[fp.Dirent](b)
			name := string(rest[:d.NameLen])
			typ := uint32(unix.DT_REG)
			if name == "link" {
				typ = unix.DT_LNK
			}
			if name != list[names].Name() || d.Type != typ || d.Ino == 0 {
				t.Errorf("entry %d: %s %+v", names, name, d)
			}
			off, b = d.Off, b[fp.DirentAlign(fp.Size[fp.Dirent]()+int(d.NameLen)):]
		}
	}
	if names != 21 || replies < 3 {
		t.Errorf("%d names in %d replies", names, replies)
	}
	w := NewDirWriter(make([]byte, 256))
	if w.AddList(1<<63, list); w.Len() != 0 {
		t.Error("entries at a position behind the end")
	}
}
