package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestRequired: only the value 1 requires something.
func TestRequired(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "no": false, "1": true} {
		t.Setenv("GOVIRTIOFS_REQUIRE", value)
		if required() != want {
			t.Errorf("GOVIRTIOFS_REQUIRE=%s: required is %v", value, !want)
		}
	}
}

func TestScriptOutput(t *testing.T) {
	for _, test := range []struct{ console, want string }{
		{"", ""},
		{"kernel\n", ""},
		{"kernel\n@@ script\nhello\n@@ end\nmore\n", "hello\n"},
		{"@@ script\nfirst boot\n@@ script\nsecond\n@@ end\n", "second\n"},
		{"@@ script\nkilled in the mid", "killed in the mid"},
	} {
		if got := scriptOutput(test.console); got != test.want {
			t.Errorf("scriptOutput(%q) = %q, want %q", test.console, got, test.want)
		}
	}
}

func TestReadStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	if _, err := readStatus(path); !errors.Is(err, ErrNoStatus) {
		t.Errorf("no file: %v", err)
	}
	for _, test := range []struct {
		contents string
		status   int
		err      error
	}{
		{"", 0, ErrNoStatus},
		{"status 0\r\n", 0, nil},
		{"status 255\n", 255, nil},
		{"mount fs\r\n", 0, ErrMount},
		{"status x\n", 0, ErrNoStatus},
	} {
		if err := os.WriteFile(path, []byte(test.contents), 0o600); err != nil {
			t.Fatal(err)
		}
		status, err := readStatus(path)
		if status != test.status || !errors.Is(err, test.err) {
			t.Errorf("%q: %d, %v", test.contents, status, err)
		}
	}
}

func TestCheckOptions(t *testing.T) {
	share := []Share{{Tag: "fs", Socket: "/var/tmp/s", Queues: 4}}
	for _, test := range []struct {
		name string
		kind Kind
		o    Options
		ok   bool
	}{
		{"plain", QEMU11, Options{Shares: share}, true},
		{"no kind", 0, Options{}, false},
		{"DAX", QEMU72, Options{Shares: share, DAX: true}, false},
		{"another kernel", QEMU11, Options{Shares: share, DAX: true, Kernel: QEMU72}, true},
		{"a kernel for UML", UML, Options{Shares: share, Kernel: QEMU72}, false},
		{"larger pages", ARM64, Options{Kernel: ARM64Pages16K, Disk: true}, true},
		{"larger pages by themselves", ARM64Pages16K, Options{}, false},
		{"a kernel for another processor", ARM64, Options{Kernel: QEMU11}, false},
		{"a disk", QEMU11, Options{Disk: true}, false},
		{"a kernel of UML", QEMU11, Options{Shares: share, Kernel: UML}, false},
		{"tag", UML, Options{Shares: []Share{{Tag: "a b", Socket: "/var/tmp/s"}}}, false},
		{"comma in a path", QEMU72, Options{Shares: []Share{{Tag: "fs", Socket: "/var/a,b"}}}, false},
		{"below /tmp, UML", UML, Options{Shares: []Share{{Tag: "fs", Socket: "/tmp/s"}}}, true},
		{"below /tmp, QEMU", QEMU72, Options{Shares: []Share{{Tag: "fs", Socket: "/tmp/s"}}}, true},
		{"file in UML's root", UML, Options{Files: map[string]string{"/bin/true": "/bin/x"}}, false},
		{"file in QEMU's root", QEMU72, Options{Files: map[string]string{"/bin/true": "/bin/x"}}, true},
	} {
		if err := test.o.check(test.kind); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	o := Options{Shares: share}
	if err := o.check(QEMU11); err != nil || o.CPUs != 4 || o.Mem != 512 {
		t.Errorf("defaults are %+v (%v)", o, err)
	}
}

// TestUnpackResults unpacks the archive of a guest that tries to write outside of
// the directory.
func TestUnpackResults(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./d/f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 2},
		{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: "/"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("ok"))
		}
	}
	_ = w.WriteHeader(&tar.Header{Name: "../out", Typeflag: tar.TypeReg, Mode: 0o644})
	_ = w.Close()
	top := t.TempDir()
	dir := filepath.Join(top, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(top, "results.tar")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unpackResults(path, dir); err == nil {
		t.Error("no error for a file outside of the directory")
	}
	if data, err := os.ReadFile(filepath.Join(dir, "d/f")); err != nil || string(data) != "ok" {
		t.Errorf("d/f is %q (%v)", data, err)
	}
	for _, name := range []string{filepath.Join(top, "out"), filepath.Join(dir, "link")} {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

func TestListening(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	if listening(path) {
		t.Error("a missing socket listens")
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if !listening(path) || !listening(filepath.Join(link, "sock")) {
		t.Error("a listening socket is not found")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if listening(path) {
		t.Error("a closed socket listens")
	}
}

func TestMayBe(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		bound, path string
		want        bool
	}{
		{dir + "/s", dir + "/s", true}, {dir + "/s.new", dir + "/s", true}, {"s", dir + "/s", true},
		{"/proc/self/fd/3/s", dir + "/s", true}, {dir + "/other", dir + "/s", false}, {dir + "/new/s", dir + "/s", false},
	} {
		if got := mayBe(test.bound, test.path); got != test.want {
			t.Errorf("%s at %s: %v", test.bound, test.path, got)
		}
	}
}
