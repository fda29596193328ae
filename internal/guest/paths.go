package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tempRoot is where guests keep the files of a run. It is not /tmp, because a UML guest
// has a directory of its own there and its script would not see the files. It is not
// below the repository, because the path of a socket must have less than 108 bytes.
const tempRoot = "/var/tmp"

// TempDir returns a new directory for sockets and shares of guests. It is removed
// at the end of the test. Unlike t.TempDir's it is visible in a UML guest, and
// its path is short enough for sockets.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot, "govirtiofs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove a test's directory: %v", err)
		}
	})
	return dir
}

// Root returns the root of the repository: the environment variable GOVIRTIOFS_ROOT,
// or else the working directory or its first parent with test/guest/setup.sh.
var Root = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("GOVIRTIOFS_ROOT"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test/guest/setup.sh")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("guest: the working directory is not in the repository")
		}
		dir = parent
	}
})

// partFile returns the path of a file in a part that setup.sh makes.
func partFile(part, name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache/guests", part, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("guest: %w (run test/guest/setup.sh %s)", err, part)
	}
	return path, nil
}

// checkPaths makes the paths absolute and checks that the guest can use them.
func (o *Options) checkPaths(kind Kind) error {
	o.Shares = append([]Share(nil), o.Shares...)
	for i := range o.Shares {
		s := &o.Shares[i]
		if s.Tag == "" || strings.ContainsAny(s.Tag, " \t\n'/,") {
			return fmt.Errorf("guest: unusable tag %q", s.Tag)
		}
		if err := checkPath(&s.Socket); err != nil {
			return err
		}
	}
	if o.HostDir != "" {
		if err := checkPath(&o.HostDir); err != nil {
			return err
		}
	}
	files := map[string]string{}
	for from, to := range o.Files {
		if err := checkPath(&from); err != nil {
			return err
		}
		if !filepath.IsAbs(to) || strings.ContainsAny(to, " \t\n'") {
			return fmt.Errorf("guest: unusable path in the guest: %q", to)
		}
		if (kind == UML || o.RootShare != "") && !strings.HasPrefix(to, "/run/") {
			return fmt.Errorf("guest: %s must be below /run", to)
		}
		files[from] = filepath.Clean(to)
	}
	o.Files = files
	return nil
}

// checkPath makes a host path absolute. A comma would end an option of QEMU, and a
// blank an argument of the UML kernel.
func checkPath(path *string) error {
	abs, err := filepath.Abs(*path)
	if err != nil {
		return err
	}
	if strings.ContainsAny(abs, " \t\n,':") {
		return fmt.Errorf("guest: unusable path %q", abs)
	}
	*path = abs
	return nil
}
