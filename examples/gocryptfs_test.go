package examples_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	suite "github.com/govirtiofs/govirtiofs/passthrough/fstest"
)

// buildCrypt builds testdata/gocryptfs.
var buildCrypt = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("testdata/gocryptfs/build.sh", bin).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return program("serve"), err
})

const password = "a password"

// crypt is a directory that gocryptfs(1) has made, and the program that serves the tree of gocryptfs 2.6 by package gofuse. The
// test is skipped where one of them can't be had.
func crypt(t *testing.T) (serve, cipher string) {
	t.Helper()
	if _, err := exec.LookPath("gocryptfs"); err != nil {
		guest.Missing(t, err)
	}
	serve, err := buildCrypt()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 3 {
		guest.Missing(t, err)
	} else if err != nil {
		t.Fatal(err)
	}
	cipher = t.TempDir()
	if out, err := exec.Command("gocryptfs", "-init", "-q", "-scryptn=10", "-passfile="+passfile(t), cipher).CombinedOutput(); err != nil {
		t.Fatalf("gocryptfs -init: %v\n%s", err, out)
	}
	return serve, cipher
}

func passfile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// decrypted is a mount of the directory by gocryptfs(1), which ends with the test.
func decrypted(t *testing.T, cipher string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("gocryptfs", "-fg", "-q", "-nosyslog", "-allow_other", "-passfile="+passfile(t), cipher, dir)
	mounttest.StartMount(t, cmd, dir)
	return dir
}

// TestGocryptfs: the tree of gocryptfs passes the suite of the file systems as it does when gocryptfs mounts it itself, but for
// what fails there, too: a change of attributes of an open file without a name, times of a symbolic link, an
// unknown name space of extended attributes. ReaddirLarge and Storm take long.
func TestGocryptfs(t *testing.T) {
	serve, cipher := crypt(t)
	dir := t.TempDir()
	mounttest.StartMount(t, exec.Command(serve, "-mount", cipher, password, dir), dir)
	suite.Run(t, dir, "", "UnlinkOpenFile", "Utimens", "Xattr", "ReaddirLarge", "Storm")
}

// TestGocryptfsData: gocryptfs decrypts what was written by the adapter, and the other way round.
func TestGocryptfsData(t *testing.T) {
	serve, cipher := crypt(t)
	for i, mounts := range [][]func() string{
		{func() string {
			dir := t.TempDir()
			mounttest.StartMount(t, exec.Command(serve, "-mount", cipher, password, dir), dir)
			return dir
		}, func() string { return decrypted(t, cipher) }},
		{func() string { return decrypted(t, cipher) }, func() string {
			dir := t.TempDir()
			mounttest.StartMount(t, exec.Command(serve, "-mount", cipher, password, dir), dir)
			return dir
		}},
	} {
		sub := fmt.Sprint("dir", i)
		want := writeSample(t, filepath.Join(mounts[0](), sub))
		checkSample(t, filepath.Join(mounts[1](), sub), want)
	}
	checkCipher(t, cipher)
}

// sample are the files of writeSample and their sizes: around the blocks of 4 KiB in which gocryptfs encrypts, and more than
// a request has.
var sample = map[string]int{"empty": 0, "one": 1, "block": 4096, "more": 4097, "large": 5<<20 + 13, strings.Repeat("long", 60): 300}

// writeSample makes a directory of files of random bytes and others, and returns the files' content.
func writeSample(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "from"), 0o755); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	content := map[string][]byte{}
	for name, size := range sample {
		b := make([]byte, size)
		_, _ = random.Read(b)
		if err := os.WriteFile(filepath.Join(dir, "from", name), b, 0o640); err != nil {
			t.Fatal(err)
		}
		content[name] = b
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	patch := []byte("in the middle")
	if err := errors.Join(
		os.Rename(path("from"), path("to")), os.Rename(path("to/one"), path("to/first")),
		os.Symlink("to/large", path("link")), os.Chmod(path("to/block"), 0o604), os.Chown(path("to/block"), 7, 8),
		unix.Setxattr(path("to/more"), "user.test", []byte("a value"), 0),
		os.Truncate(path("to/more"), 5000), patchFile(path("to/large"), patch, 3<<20-5),
	); err != nil {
		t.Fatal(err)
	}
	content["first"] = content["one"]
	delete(content, "one")
	content["more"] = append(content["more"], make([]byte, 5000-4097)...)
	copy(content["large"][3<<20-5:], patch)
	return content
}

func patchFile(name string, b []byte, off int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Close())
}

// checkSample looks for what writeSample has made.
func checkSample(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, []string{"link", "to"}) {
		t.Errorf("names: %q", got)
	}
	if got := names(t, filepath.Join(dir, "to")); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("names: %q", got)
	}
	for name, b := range want {
		if got, err := os.ReadFile(filepath.Join(dir, "to", name)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%.10s: %v; %d bytes, want %d, or others", name, err, len(got), len(b))
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); target != "to/large" {
		t.Errorf("link: %q, %v", target, err)
	}
	value := make([]byte, 20)
	if n, err := unix.Getxattr(filepath.Join(dir, "to/more"), "user.test", value); err != nil || string(value[:n]) != "a value" {
		t.Errorf("extended attribute: %q, %v", value[:max(n, 0)], err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "to/block"), &st); err != nil || st.Mode != unix.S_IFREG|0o604 || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("mode %o, owner %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
}

// checkCipher: no name and no content is on the host as it is.
func checkCipher(t *testing.T, cipher string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(cipher, func(path string, d fs.DirEntry, err error) error {
		if _, plain := sample[d.Name()]; plain || d.Name() == "to" {
			t.Errorf("the name %s is not encrypted", d.Name())
		}
		files++
		return err
	})
	if err != nil || files < 2*len(sample) {
		t.Errorf("%d files, %v", files, err)
	}
}
