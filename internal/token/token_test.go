package token

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRead: a file that other users can read is refused, and so is every other
// kind of file.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	right := filepath.Join(dir, "right")
	if err := os.WriteFile(right, []byte("0123456789abcdef\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Read(right); err != nil || string(b) != "0123456789abcdef" {
		t.Errorf("%q, %v", b, err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("0123456789abcdef"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		pipe: "not a regular file", dir: "not a regular file", "/dev/zero": "not a regular file",
		open: "mode 0644", filepath.Join(dir, "none"): "no such file",
	} {
		if b, err := Read(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %q, %v: want %q", path, b, err, says)
		}
	}
}
