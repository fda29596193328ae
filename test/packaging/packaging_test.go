// Package packaging tests what "make install" and "make dist" make, and that the
// programs for which these files are made can use them.
package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// sh runs a command in the root of the repository and returns its output.
func sh(t *testing.T, env []string, command string, args ...string) string {
	t.Helper()
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(command, args...)
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "SOURCE_DATE_EPOCH=1700000000"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// built is a directory with the programs that are to be packaged, once there is one.
var built struct {
	sync.Mutex
	dir string
}

func TestMain(m *testing.M) {
	status := m.Run()
	_ = os.RemoveAll(built.dir)
	os.Exit(status)
}

// programs builds what is to be packaged, once.
func programs(t *testing.T) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir != "" {
		return built.dir
	}
	dir, err := os.MkdirTemp("", "govirtiofs-programs-")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, nil, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3-rc1", "-o", dir+"/", "./cmd/govirtiofsd", "./cmd/govirtiofs")
	built.dir = dir
	return dir
}

// has reports whether a program is installed, and logs it if not.
func has(t *testing.T, program string) bool {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Logf("not tested with %s, which is not installed", program)
		return false
	}
	return true
}

func TestInstall(t *testing.T) {
	env := []string{"PROGRAMS=" + programs(t)}
	for prefix, jsonFile := range map[string]string{
		"/usr":       "/usr/share/qemu/vhost-user/50-govirtiofsd.json",
		"/usr/local": "/etc/qemu/vhost-user/50-govirtiofsd.json",
	} {
		t.Run(prefix, func(t *testing.T) {
			dest := t.TempDir()
			sh(t, env, "packaging/install.sh", dest, prefix, prefix+"/libexec")
			checkTree(t, dest, prefix, prefix+"/share/zsh/site-functions")
			checkJSON(t, dest+jsonFile, prefix+"/libexec/govirtiofsd")
		})
	}
}

// TestDeb builds the package twice, which must give the same bytes, and examines it.
func TestDeb(t *testing.T) {
	if !has(t, "dpkg-deb") {
		t.Skip("no dpkg-deb")
	}
	env := []string{"PROGRAMS=" + programs(t), "DEB_COMPRESSION=gzip"} // the usual one takes ten times as long
	tmp := t.TempDir()
	deb := filepath.Join(tmp, "a.deb")
	sh(t, env, "packaging/deb.sh", "1.2.3-rc1", runtime.GOARCH, deb)
	sh(t, env, "packaging/deb.sh", "1.2.3-rc1", runtime.GOARCH, deb+"2")
	sh(t, nil, "cmp", deb, deb+"2")
	for field, want := range map[string]string{"Package": "govirtiofs", "Version": "1.2.3~rc1", "Architecture": runtime.GOARCH, "Depends": ""} {
		if got := strings.TrimSpace(sh(t, nil, "dpkg-deb", "-f", deb, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	dest := filepath.Join(tmp, "root")
	sh(t, nil, "dpkg-deb", "-x", deb, dest)
	checkTree(t, dest, "/usr", "/usr/share/zsh/vendor-completions")
	checkJSON(t, dest+"/usr/share/qemu/vhost-user/50-govirtiofsd.json", "/usr/libexec/govirtiofsd")
	for _, program := range []string{"govirtiofs", "govirtiofsd"} {
		if out := sh(t, nil, filepath.Join(dest, "usr/bin", program), "--version"); !strings.Contains(out, "1.2.3-rc1") {
			t.Errorf("%s --version: %q", program, out)
		}
	}
	// The link that an administrator makes to replace the daemon.
	link := filepath.Join(dest, "usr/libexec/virtiofsd")
	if err := os.Symlink("govirtiofsd", link); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, nil, link, "--print-capabilities"); !strings.Contains(out, "separate-options") {
		t.Errorf("as virtiofsd: %s", out)
	}
}

// checkTree looks at an installed tree.
func checkTree(t *testing.T, dest, prefix, zsh string) {
	t.Helper()
	for _, name := range []string{
		prefix + "/libexec/govirtiofsd", prefix + "/bin/govirtiofs",
		prefix + "/lib/systemd/system/govirtiofsd@.service", prefix + "/lib/systemd/system/govirtiofsd@.socket",
		prefix + "/share/doc/govirtiofs/examples/example.conf", "/etc/govirtiofs",
		prefix + "/share/doc/govirtiofs/examples/govirtiofs-relay.example.service",
	} {
		if _, err := os.Stat(dest + name); err != nil {
			t.Error(err)
		}
	}
	for _, program := range []string{"govirtiofs", "govirtiofsd"} {
		checkMan(t, dest+prefix+"/share/man/man1/"+program+".1")
		sh(t, nil, "bash", "--norc", "-ec", `. "$0"; complete -p "$1"`, dest+prefix+"/share/bash-completion/completions/"+program, program)
		for shell, file := range map[string]string{
			"zsh": dest + zsh + "/_" + program, "fish": dest + prefix + "/share/fish/vendor_completions.d/" + program + ".fish",
		} {
			if b, err := os.ReadFile(file); err != nil || len(b) == 0 {
				t.Errorf("%s: %d bytes, %v", file, len(b), err)
			} else if has(t, shell) {
				sh(t, nil, shell, "-n", file)
			}
		}
	}
	checkUnits(t, dest, prefix)
	checkLinks(t, dest+prefix+"/share/doc/govirtiofs")
}

// checkMan renders a page. The formatter must not complain.
func checkMan(t *testing.T, page string) {
	t.Helper()
	if _, err := os.Stat(page); err != nil {
		page += ".gz"
	}
	if _, err := os.Stat(page); err != nil {
		t.Error(err)
		return
	}
	if has(t, "groff") {
		if out := sh(t, nil, "sh", "-c", `gzip -cdf "$0" | groff -ww -mdoc -Tutf8 2>&1 >/dev/null`, page); out != "" {
			t.Errorf("%s: %s", page, out)
		}
	}
	if has(t, "mandoc") {
		sh(t, nil, "mandoc", "-Tlint", "-Wwarning", page)
	}
}

// checkUnits has systemd read the units, with the program at its place.
func checkUnits(t *testing.T, dest, prefix string) {
	t.Helper()
	if !has(t, "systemd-analyze") {
		return
	}
	tmp := t.TempDir()
	for _, kind := range []string{"service", "socket"} {
		b, err := os.ReadFile(dest + prefix + "/lib/systemd/system/govirtiofsd@." + kind)
		if err != nil {
			t.Error(err)
			return
		}
		unit := strings.ReplaceAll(string(b), prefix+"/libexec/", dest+prefix+"/libexec/")
		unit = strings.ReplaceAll(unit, "Documentation=man:govirtiofsd(1)\n", "") // not installed here
		if err := os.WriteFile(tmp+"/govirtiofsd@x."+kind, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := sh(t, nil, "systemd-analyze", "verify", tmp+"/govirtiofsd@x.service", tmp+"/govirtiofsd@x.socket")
	for line := range strings.Lines(out) {
		// systemd before 254 does not know this key. It prints a warning and ignores the key.
		if strings.Contains(line, "Unknown key 'FileDescriptorStorePreserve'") {
			continue
		}
		if strings.Contains(line, "govirtiofsd@") {
			t.Error(line)
		}
	}
}

// checkJSON reads the file by which libvirt finds the daemon
// (docs/interop/vhost-user.json of QEMU).
func checkJSON(t *testing.T, file, binary string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	var v struct {
		Description, Type, Binary string
		Features                  []string
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Errorf("%v\n%s", err, b)
		return
	}
	if v.Type != "fs" || v.Binary != binary || v.Description == "" || len(v.Features) == 0 {
		t.Errorf("%s", b)
	}
}
