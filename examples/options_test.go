package examples_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/mounttest"
)

// TestMemfsOptions: memfs with requests by io_uring, where the kernel gives them so, and without extended attributes.
func TestMemfsOptions(t *testing.T) {
	dir := mounttest.Program(t, program("memfs"), "--io-uring", "--xattr=false")
	write(t, dir, "a/b", "c")
	content(t, filepath.Join(dir, "a/b"), "b")
	for range 2 { // what the client has been told, and what it knows then
		if _, err := unix.Getxattr(filepath.Join(dir, "c"), "user.x", nil); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("get: %v", err)
		}
		if err := unix.Setxattr(filepath.Join(dir, "c"), "user.x", nil, 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("set: %v", err)
		}
	}
}

// TestMemfsWriteback: memfs whose writes the client collects.
func TestMemfsWriteback(t *testing.T) {
	file := filepath.Join(mounttest.Program(t, program("memfs"), "--writeback"), "file")
	var want []byte
	for range 3 {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := f.WriteString("some bytes\n"); err != nil {
				t.Fatal(err)
			}
			want = append(want, "some bytes\n"...)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Truncate(file, 5); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "some " {
		t.Errorf("truncated: %q, %v", got, err)
	}
}

// TestExampleUsage: mistakes are reported with what was wrong and what to do, in the words of the daemon's messages.
func TestExampleUsage(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no archive\n"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		program string
		args    []string
		status  int
		says    string
	}{
		{"memfs", []string{"--foo"}, 2, "memfs: unknown option --foo\n"},
		{"memfs", []string{"--queue=2"}, 2, "unknown option --queue; did you mean --queues?"},
		{"memfs", []string{"--queues=x"}, 2, `invalid value "x" for option --queues: want a whole number`},
		{"memfs", []string{"--mount=/", "more"}, 2, "1 arguments are given: want none"},
		{"memfs", nil, 2, "give one of --socket-path and --mount"},
		{"nullfs", []string{"--mount=/"}, 2, "an argument is missing: want DIR"},
		{"memfs", []string{"--mount=" + text}, 1, "mount on " + text + ": not a directory: give a directory to mount on"},
		{"gofusefs", []string{"--mount=/", text + "-none"}, 1, text + "-none: no such file or directory"},
		{"archivefs", []string{"--mount=/", text}, 1, "this is no zip archive, no tar archive"},
		{"archivefs", []string{"--help"}, 0, "--socket-path PATH"},
	} {
		out, err := exec.Command(program(test.program), test.args...).CombinedOutput()
		status := 0
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			status = ended.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if status != test.status || !strings.Contains(string(out), test.says) {
			t.Errorf("%s %q: status %d, want %d with %q\n%s", test.program, test.args, status, test.status, test.says, out)
		}
	}
}

// TestIOUringForMounts: a guest's requests have nothing to do with io_uring.
func TestIOUringForMounts(t *testing.T) {
	out, err := exec.Command(program("memfs"), "--io-uring", "--socket-path="+filepath.Join(t.TempDir(), "s")).CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 2 || !strings.Contains(string(out), "--io-uring is for --mount") {
		t.Errorf("%v\n%s", err, out)
	}
}
