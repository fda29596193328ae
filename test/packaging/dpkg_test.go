package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestDpkg installs the package with dpkg in a root of its own, with its scripts, changes
// a setting, upgrades, removes and purges it.
func TestDpkg(t *testing.T) {
	if !has(t, "dpkg") || os.Geteuid() != 0 {
		t.Skip("needs dpkg and root")
	}
	env := []string{"PROGRAMS=" + programs(t), "DEB_COMPRESSION=gzip"}
	tmp := t.TempDir()
	root := filepath.Join(tmp, "root")
	state := filepath.Join(root, "var/lib/dpkg")
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(state, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"status", "available"} {
		if err := os.WriteFile(filepath.Join(state, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := func(args ...string) string {
		t.Helper()
		// The scripts run here and not in the root, which has no shell.
		return sh(t, nil, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-not-root", "--log=/dev/null"}, args...)...)
	}
	for _, version := range []string{"1.2.3-rc1", "1.2.3"} {
		deb := filepath.Join(tmp, version+".deb")
		sh(t, env, "packaging/deb.sh", version, runtime.GOARCH, deb)
		dpkg("--install", deb)
		want := strings.ReplaceAll(version, "-", "~")
		if got := sh(t, nil, "dpkg-query", "--admindir="+state, "-W", "-f", "${Status} ${Version}", "govirtiofs"); got != "install ok installed "+want {
			t.Errorf("after dpkg --install: %q, want version %s", got, want)
		}
		if out := dpkg("--verify", "govirtiofs"); out != "" {
			t.Errorf("dpkg --verify: %s", out)
		}
		if out := sh(t, nil, filepath.Join(root, "usr/bin/govirtiofsd"), "--version"); !strings.HasPrefix(out, "govirtiofsd ") {
			t.Errorf("--version: %q", out)
		}
		setting := filepath.Join(root, "etc/govirtiofs/share.conf")
		if version == "1.2.3-rc1" {
			if err := os.WriteFile(setting, []byte("SHARED_DIR=/srv\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat(setting); err != nil {
			t.Errorf("the upgrade took the administrator's settings away: %v", err)
		}
	}
	dpkg("--remove", "govirtiofs")
	for _, name := range []string{"usr/libexec/govirtiofsd", "usr/bin/govirtiofsd", "usr/lib/systemd/system/govirtiofsd@.service", "usr/share/doc/govirtiofs"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			t.Errorf("dpkg --remove leaves %s", name)
		}
	}
	dpkg("--purge", "govirtiofs")
	if out := sh(t, nil, "dpkg-query", "--admindir="+state, "-W", "-f", "${Package}\n"); strings.Contains(out, "govirtiofs") {
		t.Errorf("dpkg --purge leaves it known: %q", out)
	}
	var left []string
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(path, state) {
			left = append(left, strings.TrimPrefix(path, root))
		}
		return err
	})
	if len(left) != 1 || left[0] != "/etc/govirtiofs/share.conf" { // which the administrator has made
		t.Errorf("files left behind: %v", left)
	}
}

// TestLintian: Debian's checks find nothing.
func TestLintian(t *testing.T) {
	if !has(t, "lintian") {
		t.Skip("no lintian")
	}
	deb := filepath.Join(t.TempDir(), "govirtiofs.deb")
	sh(t, []string{"PROGRAMS=" + programs(t), "DEB_COMPRESSION=gzip"}, "packaging/deb.sh", "1.2.3-rc1", runtime.GOARCH, deb)
	if out := sh(t, nil, "lintian", "--allow-root", "--fail-on", "none", deb); out != "" {
		t.Error(out)
	}
}

// TestVersions: a program says its version in one form, however it was built.
func TestVersions(t *testing.T) {
	form := regexp.MustCompile(`^(govirtiofsd?) \d+\.\d+\.\d+(-[0-9A-Za-z.]+)?(\+dirty)?\n$`)
	dir := t.TempDir()
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(sh(t, nil, filepath.Join(root, "packaging/version.sh")))
	sh(t, nil, "go", "build", "-ldflags", "-s -w -X main.version="+version, "-o", dir+"/make/", "./cmd/govirtiofsd", "./cmd/govirtiofs")
	sh(t, []string{"GOBIN=" + dir + "/go"}, "go", "install", "-ldflags", "-s -w", "./cmd/govirtiofsd", "./cmd/govirtiofs")
	for _, how := range []string{"make", "go"} {
		for _, program := range []string{"govirtiofsd", "govirtiofs"} {
			out := sh(t, nil, filepath.Join(dir, how, program), "--version")
			if m := form.FindStringSubmatch(out); m == nil || m[1] != program || how == "make" && out != program+" "+version+"\n" {
				t.Errorf("%s built by %s: --version says %q", program, how, out)
			}
		}
	}
}
