package differential

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// commandLines are tried with both programs, in a directory with the share "s" and
// the socket "k". A "+" at the beginning stands for these two and no sandbox.
var commandLines = []string{
	"", "--help", "-h", "--version", "-V", "--print-capabilities", "--version extra", "-V -h",
	"--print-capabilities --fd 3", "--print-capabilities --shared-dir nosuch", "--print-capabilities --socket-group root", "+ --print-capabilities",

	// What is shared, and where.
	"+", "+ --shared-dir s", "+ --shared-dir=.", "+ --shared-dir s/file", "+ --shared-dir nosuch", "--socket-path k", "--shared-dir s",
	"--shared-dir=s --socket-path=k", "--shared-dir= --socket-path k", "+ --socket-path k2", "+ --socket k2", "+ --fd 3", "--fd=3 --shared-dir s",
	"--shared-dir s --socket k --sandbox none", "--shared-dir s --socket k --fd 3", "--shared-dir s --fd 3 --socket-group root",
	"+ --socket-group root", "+ --socket-group nosuchgroup", "+ --socket-path nosuch/k", "+ --fd x", "+ --tag t", "+ --tag=", "+ --tag",
	"+ --tag=1234567890123456789012345678901234567", "-o source=s --socket-path k --sandbox none",

	// Words, and how they are written.
	"+ --cache never", "+ --cache=metadata", "+ --cache auto", "+ --cache ALWAYS", "+ --cache none", "+ --cache", "+ --cache=auto --cache=never",
	"+ --posix-acl", "+ --posix-acl=auto", "+ --posix-acl=never", "+ --posix-acl=always", "+ --posix-acl auto", "+ --posix-acl=some", "+ --posix-acl=AUTO",
	"+ --security-label", "+ --security-label=auto", "+ --security-label always", "+ --sandbox chroot", "+ --sandbox=NAMESPACE", "+ --sandbox=jail",
	"+ --seccomp log", "+ --seccomp=trap", "+ --seccomp kill", "+ --seccomp=none", "+ --seccomp=KILL", "+ --seccomp=on",
	"+ --inode-file-handles=never", "+ --inode-file-handles=prefer", "+ --inode-file-handles=fallback", "+ --inode-file-handles never", "+ --inode-file-handles",
	"+ --log-level error", "+ --log-level=debug", "+ --log-level WARN", "+ --log-level trace", "+ --log-level loud",

	// Switches.
	"+ --xattr --readonly --writeback --allow-direct-io --allow-mmap --no-readdirplus --preserve-noatime --syslog",
	"+ --announce-submounts --no-announce-submounts", "+ --no-announce-submounts --announce-submounts --announce-submounts",
	"+ --killpriv-v2 --no-killpriv-v2", "+ --xattr --xattr", "+ --xattr=1", "+ --readonly=true", "+ --read-only", "+ --shared", "+ --nosuch", "+ -x", "+ extra", "+ --", "+ -- extra",

	// Numbers and lists.
	"+ --thread-pool-size 0", "+ --thread-pool-size=64", "+ --thread-pool-size -1", "+ --thread-pool-size=many", "+ --rlimit-nofile 0",
	"+ --rlimit-nofile=10000", "+ --rlimit-nofile 100", "+ --rlimit-nofile=x", "+ --rlimit-nofile=99999999999",
	"+ --modcaps=-mknod", "+ --modcaps=+sys_admin:-MKNOD", "+ --modcaps=mknod", "+ --modcaps=+nosuch", "+ --modcaps=+cap_mknod", "+ --modcaps=",
	"+ --uid-map :0:0:1:", "--shared-dir s --socket-path k --uid-map :0:0:1:", "+ --uid-map nonsense", "+ --gid-map /0/0/1",

	// The first virtiofsd's options.
	"+ -o xattr", "+ -oxattr", "+ -o=xattr", "+ -o xattr,no_xattr,readdirplus,no_readdirplus,writeback,no_writeback",
	"+ -o allow_direct_io,no_allow_direct_io,announce_submounts,killpriv_v2,no_killpriv_v2", "+ -o posix_acl,no_posix_acl,security_label,no_security_label",
	"+ -o no_posix_lock,no_flock", "+ -o cache=auto -o cache=always,cache=none,cache=metadata", "+ -o loglevel=debug,loglevel=info,loglevel=warn,loglevel=err",
	"+ -o sandbox=namespace,sandbox=chroot", "+ -o modcaps=-mknod", "+ -o source=s", "+ -o nosuch", "+ -o xattr,", "+ -o cache=some", "+ -o source",
	"+ -o cache=never", "+ -o sandbox=none", "+ -o flock", "+ -o posix_lock", "+ -o timeout=1", "+ -o debug", "+ -o log_level=debug",
	"+ -d", "+ -f", "+ -df", "+ -d=1",

	// Options that exclude each other.
	"+ --translate-uid map:0:1:1", "+ --translate-uid map:0:1:1 --posix-acl", "+ --translate-uid map:0:1", "+ --translate-gid forbid-guest:0:0",
	"+ --xattrmap :ok:all:::", "+ --xattrmap nonsense", "+ -o xattrmap=:ok:all:::", "+ -o xattrmap=x", "+ -o xattrmap=:ok:all::: --xattrmap=:bad:all:::", "+ --migration-mode find-paths", "+ --migration-mode=file-handles", "+ --migration-on-error guest-error",
	"+ --migration-verify-handles --migration-confirm-paths", "+ --migration-mode=nosuch",
	"+ --migration-mode=file-handles --migration-verify-handles", "+ --migration-mode=file-handles --migration-confirm-paths", "+ --inode-file-handles=mandatory",
	"+ --inode-file-handles=mandatory --modcaps=-dac_read_search", "+ --inode-file-handles=prefer --modcaps=-dac_read_search",
}

// TestIntegrationArguments compares what both make of a command line: an exit status,
// or that they serve.
func TestIntegrationArguments(t *testing.T) {
	both := peers(t)
	seen := seenDifferences{}
	t.Chdir(guest.TempDir(t))
	if err := errors.Join(os.Mkdir("s", 0o755), os.WriteFile("s/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, line := range commandLines {
		var got [2]string
		for i, p := range both {
			got[i] = outcome(t, p, line)
		}
		at := "arguments/" + strings.TrimPrefix(line, "+ ")
		if got[0] != got[1] && !seen.intended("arguments", "", at, got[0], got[1]) {
			t.Errorf("%q: virtiofsd %s, govirtiofsd %s", line, got[0], got[1])
		}
	}
	seen.checkUnused(t, "arguments")
}

// outcome runs a command line.
func outcome(t *testing.T, p peer, line string) string {
	t.Helper()
	var args []string
	if rest, ok := strings.CutPrefix(line, "+"); ok {
		args, line = []string{"--shared-dir", "s", "--socket-path", "k", "--sandbox", "none"}, rest
	}
	// A daemon that logs errors only says nothing when it serves. The test
	// connects to it instead.
	d, err := launch(t, p, 100*time.Millisecond, append(args, strings.Fields(line)...)...)
	for end := time.Now().Add(60 * time.Second); err == nil && !d.serves() && time.Now().Before(end); {
		select {
		case <-d.ended:
			err = errEnded
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.kill()
	left, _ := filepath.Glob("k*")
	for _, name := range left {
		os.Remove(name)
	}
	if err == nil {
		return "serves"
	}
	return fmt.Sprintf("exit %d", d.cmd.ProcessState.ExitCode())
}

// serves reports whether a daemon has said that it waits for a front-end, or answers one.
func (d *daemon) serves() bool {
	select {
	case <-d.log.ready:
		return true
	default:
	}
	sockets, _ := filepath.Glob("k*")
	for _, name := range sockets {
		if f, err := frontend.Dial(name, frontend.Options{}); err == nil {
			f.Close()
			return true
		}
	}
	return false
}

// TestIntegrationCapabilities: management programs are told the same, byte for byte.
func TestIntegrationCapabilities(t *testing.T) {
	both := peers(t)
	var out [2]string
	for i, p := range both {
		b, err := exec.Command(p.program, "--print-capabilities").Output()
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		out[i] = string(b)
	}
	if out[0] != out[1] {
		t.Errorf("virtiofsd %s, govirtiofsd %s", out[0], out[1])
	}
}
