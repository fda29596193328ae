// Package examples_test builds the examples, mounts each of them with /dev/fuse and uses it, and shows
// all of them to a guest.
package examples_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	suite "github.com/govirtiofs/govirtiofs/passthrough/fstest"
)

// bin is where the programs are.
var bin string

var programs = []string{"memfs", "nullfs", "rot13fs", "hidefs", "livefs", "archivefs", "unionfs", "gofusefs", "recoverfs"}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "examples-")
	if err == nil {
		defer os.RemoveAll(dir)
		bin = dir
		args := []string{"-o", dir + "/"}
		for _, p := range programs {
			args = append(args, "./examples/"+p)
		}
		err = guest.Build(args...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the examples:", err)
		return 1
	}
	return m.Run()
}

func program(name string) string { return filepath.Join(bin, name) }

// write makes files of the names, with their names in them.
func write(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(filepath.Base(name)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// names are the names in a directory.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func content(t *testing.T, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(name); string(got) != want {
		t.Errorf("%s: %q, %v, want %q", filepath.Base(name), got, err, want)
	}
}

// TestNullfs: a decorator that changes nothing passes the suite of what it decorates.
func TestNullfs(t *testing.T) {
	source := t.TempDir()
	suite.Run(t, mounttest.Program(t, program("nullfs"), source), source, "ReaddirLarge", "IdmappedMount", "DirectIO", "DirectIOMapped", "DirectIOTurnedOff")
}

// TestRot13: names, links and data are rotated on the host and plain in the mount.
func TestRot13(t *testing.T) {
	source := t.TempDir()
	dir := mounttest.Program(t, program("rot13fs"), source)
	large := bytes.Repeat([]byte("Hello, World. "), 100_000)
	write(t, dir, "Secret/file", "Secret/other")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "Secret/large"), large, 0o600), os.Symlink("Secret/file", filepath.Join(dir, "link")),
		os.Rename(filepath.Join(dir, "Secret/other"), filepath.Join(dir, "moved"))); err != nil {
		t.Fatal(err)
	}
	content(t, filepath.Join(source, "Frperg/svyr"), "svyr")
	content(t, filepath.Join(dir, "Secret/file"), "file")
	content(t, filepath.Join(dir, "link"), "file")
	content(t, filepath.Join(dir, "moved"), "other")
	content(t, filepath.Join(dir, "Secret/large"), string(large))
	if target, err := os.Readlink(filepath.Join(source, "yvax")); target != "Frperg/svyr" {
		t.Errorf("link on the host: %q, %v", target, err)
	}
	got, err := os.ReadFile(filepath.Join(source, "Frperg/ynetr"))
	if err != nil || len(got) != len(large) || !bytes.HasPrefix(got, []byte("Uryyb, Jbeyq. ")) || bytes.Contains(got, []byte("Hello")) {
		t.Errorf("data on the host: %d bytes, %q..., %v", len(got), got[:min(20, len(got))], err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"Secret", "link", "moved"}) {
		t.Errorf("names: %q", got)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "Secret")), os.Remove(filepath.Join(dir, "link"))); err != nil {
		t.Error(err)
	}
	if got := names(t, source); !slices.Equal(got, []string{"zbirq"}) {
		t.Errorf("names on the host at the end: %q", got)
	}
}

// TestHide: what matches a pattern is neither there nor can be made.
func TestHide(t *testing.T) {
	source := t.TempDir()
	write(t, source, "a.txt", "b.key", ".ssh/id", "dir/c.key", "dir/d.txt")
	for i := range 3000 { // replies that have nothing but hidden names
		write(t, source, fmt.Sprintf("many/%04d.key", i))
	}
	write(t, source, "many/visible")
	dir := mounttest.Program(t, program("hidefs"), source, "*.key", ".s*", ".")
	if got := names(t, dir); !slices.Equal(got, []string{"a.txt", "dir", "many"}) {
		t.Errorf("names: %q", got)
	}
	if got := names(t, filepath.Join(dir, "many")); !slices.Equal(got, []string{"visible"}) {
		t.Errorf("names among many: %q", got)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"b.key", ".ssh", ".ssh/id", "dir/c.key"} {
		if _, err := os.Lstat(path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, err := range map[string]error{
		"create":  os.WriteFile(path("new.key"), nil, 0o600),
		"mkdir":   os.Mkdir(path("new.key"), 0o700),
		"mkfifo":  unix.Mkfifo(path("new.key"), 0o600),
		"symlink": os.Symlink("x", path("new.key")),
		"link":    os.Link(path("a.txt"), path("new.key")),
		"rename":  os.Rename(path("a.txt"), path("new.key")),
	} {
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{"unlink": unix.Unlink(path("b.key")), "rmdir": unix.Rmdir(path(".ssh")), "from": os.Rename(path("b.key"), path("x"))} {
		if err == nil {
			t.Errorf("%s of a hidden name is possible", what)
		}
	}
	write(t, dir, "new.txt")
	content(t, filepath.Join(source, "new.txt"), "new.txt")
	content(t, filepath.Join(source, "b.key"), "b.key")
}

// TestLive: values are read as they are now, and set.
func TestLive(t *testing.T) {
	dir := mounttest.Program(t, program("livefs"))
	number := func(name string) (n int) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if _, scanned := fmt.Sscanln(string(b), &n); err != nil || scanned != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		return n
	}
	if n := number("metrics/sched/goroutines-goroutines"); n < 1 {
		t.Errorf("%d goroutines", n)
	}
	set := filepath.Join(dir, "set/gc-percent")
	for _, want := range []int{50, 200} {
		if err := os.WriteFile(set, fmt.Appendln(nil, want), 0o644); err != nil {
			t.Error(err)
		}
		if got := number("set/gc-percent"); got != want {
			t.Errorf("%d was set to %d", got, want)
		}
	}
	for _, text := range []string{"many", "-2", strings.Repeat("1", 65<<10)} {
		if err := os.WriteFile(set, []byte(text), 0o644); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EFBIG) {
			t.Errorf("%.10s: %v", text, err)
		}
	}
	if got := number("set/gc-percent"); got != 200 {
		t.Errorf("a wrong value was set: %d", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "metrics/sched/goroutines-goroutines"), nil, 0o644); err == nil {
		t.Error("a value that is no setting can be written")
	}
	all := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			_, err = os.ReadFile(path)
			all++
		}
		return err
	})
	if err != nil || all < 30 {
		t.Errorf("%d values, %v", all, err)
	}
}

// TestUnion: the first directory that has a name has the file, and directories are merged.
func TestUnion(t *testing.T) {
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, a, "dir/a", "x")
	write(t, b, "dir/b", "x/not", "only/b")
	write(t, c, "dir/c", "only/c", "dir/b")
	if err := errors.Join(os.WriteFile(filepath.Join(c, "dir/b"), []byte("hidden"), 0o600), os.Symlink("dir/c", filepath.Join(b, "link"))); err != nil {
		t.Fatal(err)
	}
	dir := mounttest.Program(t, program("unionfs"), a, b, c)
	if err := fstest.TestFS(os.DirFS(dir), "dir/a", "dir/b", "dir/c", "x", "only/b", "only/c"); err != nil {
		t.Error(err)
	}
	content(t, filepath.Join(dir, "dir/b"), "b")
	content(t, filepath.Join(dir, "x"), "x")
	content(t, filepath.Join(dir, "link"), "c")
	if got := names(t, filepath.Join(dir, "dir")); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("names: %q", got)
	}
	write(t, b, "dir/later")
	content(t, filepath.Join(dir, "dir/later"), "later")
}

// TestUnionWrites: what is written goes where the file is, new names to the first directory that has their
// parent, and nothing that was removed comes to light again.
func TestUnionWrites(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a, "dir/both", "dir/a", "onlya/f")
	write(t, b, "dir/both", "dir/b", "onlyb/f", "file")
	dir := mounttest.Program(t, program("unionfs"), a, b)
	path := func(name string) string { return filepath.Join(dir, name) }
	there := func(root, name string, want bool) {
		t.Helper()
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	write(t, dir, "file", "onlyb/new", "dir/new", "onlya/new")
	content(t, filepath.Join(b, "file"), "file")
	there(a, "file", false)
	there(b, "onlyb/new", true)
	there(a, "dir/new", true)
	if err := os.Remove(path("dir/both")); err != nil {
		t.Error(err)
	}
	there(b, "dir/both", false)
	if err := os.Rename(path("onlyb/f"), path("onlya/g")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("a rename into a directory that is elsewhere: %v", err)
	}
	if err := os.Link(path("onlyb/f"), path("onlya/g")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("a link into a directory that is elsewhere: %v", err)
	}
	if err := os.Rename(path("dir"), path("moved")); err != nil {
		t.Error(err)
	}
	there(a, "moved/a", true)
	there(b, "moved/b", true)
	if got := names(t, path("moved")); !slices.Equal(got, []string{"a", "b", "new"}) {
		t.Errorf("names: %q", got)
	}
	write(t, b, "moved/x")
	if err := errors.Join(os.Remove(path("moved/a")), os.Rename(path("moved/new"), path("moved/x"))); err != nil {
		t.Error(err)
	}
	content(t, path("moved/x"), "new")
	there(b, "moved/x", false) // what was replaced
	if err := unix.Rmdir(path("moved")); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("rmdir of a directory that has names in one part only: %v", err)
	}
	if err := os.RemoveAll(path("moved")); err != nil {
		t.Error(err)
	}
	there(a, "moved", false)
	there(b, "moved", false)
}

// TestUnionSuite: the suite that package passthrough passes, in a union whose parts are empty, but for what
// unionfs does not have, and a directory of more files than it may have descriptors for.
func TestUnionSuite(t *testing.T) {
	suite.Run(t, mounttest.Program(t, program("unionfs"), t.TempDir(), t.TempDir()), "", "FileFlags", "ReaddirLarge")
}

var modified = time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)

// tarArchive is an archive with all kinds of members.
func tarArchive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o750},
		{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8},
		{Name: "deep/below/file", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/file"},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "../../outside", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		text := strings.Repeat(h.Name, 20_000)
		h.ModTime = modified
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTar: a tar archive, plain and compressed.
func TestTar(t *testing.T) {
	plain := tarArchive(t)
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"a.tar": plain, "a.tar.gz": compressed.Bytes()} {
		t.Run(name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(archive, data, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := mounttest.Program(t, program("archivefs"), archive)
			content(t, filepath.Join(dir, "link"), strings.Repeat("dir/file", 20_000))
			content(t, filepath.Join(dir, "deep/below/file"), strings.Repeat("deep/below/file", 20_000))
			content(t, filepath.Join(dir, "outside"), strings.Repeat("../../outside", 20_000))
			var st, hard unix.Stat_t
			if err := errors.Join(unix.Lstat(filepath.Join(dir, "dir/file"), &st), unix.Lstat(filepath.Join(dir, "hard"), &hard)); err != nil {
				t.Fatal(err)
			}
			if st.Uid != 7 || st.Gid != 8 || st.Mode != unix.S_IFREG|0o640 || st.Nlink != 2 || st.Ino != hard.Ino || st.Mtim.Sec != modified.Unix() {
				t.Errorf("%+v and %+v", st, hard)
			}
			if info, err := os.Stat(filepath.Join(dir, "twice")); err != nil || info.Mode() != 0o644 {
				t.Errorf("twice: %v, %v", info, err)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"deep", "dir", "fifo", "hard", "link", "outside", "twice"}) {
				t.Errorf("names: %q", got)
			}
		})
	}
}

// TestZip: a zip archive.
func TestZip(t *testing.T) {
	archive := zipArchive(t)
	dir := mounttest.Program(t, program("archivefs"), archive)
	if err := fstest.TestFS(os.DirFS(dir), "README", "doc/first.txt"); err != nil {
		t.Error(err)
	}
	content(t, filepath.Join(dir, "doc/first.txt"), "doc/first.txt")
}

func zipArchive(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	for _, name := range []string{"README", "doc/first.txt"} {
		file, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(file, name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}
