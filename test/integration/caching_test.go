package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationImmutable reads a share that never changes, twice. The second time all
// comes from the guest's memory. Linux opens no file.
func TestIntegrationImmutable(t *testing.T) {
	guest.Need(t, guest.UML)
	d := start(t, "", "--log-level=trace", "--immutable", "--rlimit-nofile=700")
	tree(t, filepath.Join(d.dir, "src"), 1200)
	for i := range 20 {
		if err := os.Symlink(fmt.Sprintf("src/d%02d", i), filepath.Join(d.dir, fmt.Sprintf("link%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	out := inUML(t, d, `
		sum() { find src -type f | sort | xargs cat | sha256sum; }
		ls -lR . >/run/list; one=$(sum)
		for i in 1 2 3 4 5 6 7 8 9 10; do
			ls link1/ >/dev/null; ls -lR . | cmp - /run/list; [ ! -e none ]
		done
		[ "$(sum)" = "$one" ]; echo "sum $one"
		if echo x >new; then exit 1; fi
		if echo x >>src/d00/file0000; then exit 1; fi
		exec 9<src/d00/file0040; flock 9`)
	h := sha256.New()
	var paths []string
	if err := filepath.Walk(filepath.Join(d.dir, "src"), func(p string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			paths = append(paths, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths { // Walk goes in the order of names
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	if want := fmt.Sprintf("sum %x", h.Sum(nil)); !strings.Contains(out, want) {
		t.Errorf("want %s, got\n%s", want, tail(out))
	}
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("daemon: %v\n%s", err, tail(d.log.String()))
	}
	count := func(opcode string) int {
		return len(regexp.MustCompile(`rx \d+: `+opcode+` `).FindAllString(d.log.String(), -1))
	}
	// The guest sends one OPEN and one OPENDIR to find out that they are not
	// needed, and an OPEN for each write, which is refused.
	if opens, opendirs := count("OPEN"), count("OPENDIR"); opens > 3 || opendirs > 3 || count("RELEASE") > 0 {
		t.Errorf("%d OPEN, %d OPENDIR, %d RELEASE", opens, opendirs, count("RELEASE"))
	}
	if n := count("READLINK"); n > 40 { // ls and a path walk may both read them at once
		t.Errorf("%d READLINK of 20 links", n)
	}
	if n := count("READ"); n < 1190 || n > 3000 {
		t.Errorf("%d READ of 1200 files", n)
	}
}
