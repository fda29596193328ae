package relay_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// recipe is how to try a program.
type recipe struct {
	name  string
	needs []string
	// prepare makes what the program serves, and returns its command line. With empty set the sample is made through
	// the program.
	prepare  func(b *bench) []string
	empty    bool
	readOnly bool
	rootOnly bool
	omit     sample.Omit
	options  []string // of the relay
	// rootIsUser has the guest's root be the user who has started the program.
	rootIsUser bool
	over       bool // bench.kill ends a server during sample.CheckOver
	// host looks at the program's own side for what was written with a suffix, when the relay has ended. nil: the program is
	// started once more and looked into.
	host func(b *bench, suffix string, o sample.Omit) error
	// stored is the directory of the program's own side where a file is when the program has stored it, if the guest has to
	// wait for that before it goes on: see sample.Write.
	stored string
	// own is what is tried instead of the sample.
	own func(b *bench, dir string) error
}

// inDir has the host side be a directory.
func inDir(name string) func(*bench, string, sample.Omit) error {
	return func(b *bench, suffix string, o sample.Omit) error {
		return sample.CheckWritten(b.path(name), suffix, o)
	}
}

// printed has the host side be what a command prints, with {name} as the name of the file.
func printed(args ...string) func(*bench, string, sample.Omit) error {
	return func(b *bench, suffix string, o sample.Omit) error {
		name, want := sample.Written(suffix, o)
		words := append([]string{}, args...)
		for i := range words {
			words[i] = strings.NewReplacer("{name}", name, "{dir}", b.dir).Replace(words[i])
		}
		var errs bytes.Buffer
		cmd := b.command(words[0], words[1:]...)
		cmd.Stderr = &errs
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%q prints %d bytes, want %d: %v %s", words, len(got), len(want), err, errs.String())
		}
		return nil
	}
}

func squashed(program string) func(b *bench) []string {
	return func(b *bench) []string {
		b.run("", "mksquashfs", b.sample("src"), b.path("image"), "-quiet", "-no-progress", "-noD", "-noF")
		return []string{program, b.path("image"), "{mount}"}
	}
}

// recipes are the programs.
func recipes() []recipe {
	return []recipe{
		{name: "raw", prepare: func(*bench) []string { return []string{rawfuse, "{mount}"} }, own: func(_ *bench, dir string) error {
			got, err := os.ReadFile(filepath.Join(dir, "hello"))
			if err != nil || string(got) != "hello, guest\n" {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		}},
		{name: "squashfuse", needs: []string{"squashfuse", "mksquashfs"}, readOnly: true, prepare: squashed("squashfuse")},
		{name: "squashfuse_ll", needs: []string{"squashfuse_ll", "mksquashfs"}, readOnly: true, prepare: squashed("squashfuse_ll")},
		{name: "sshfs", needs: []string{"sshfs", "sshd"}, host: inDir("src"), prepare: prepareSSHFS},
		{name: "bindfs", needs: []string{"bindfs"}, host: inDir("src"), prepare: func(b *bench) []string {
			return []string{"bindfs", b.sample("src"), "{mount}"}
		}},
		{name: "mergerfs", needs: []string{"mergerfs"}, host: inDir("src"), prepare: func(b *bench) []string {
			return []string{"mergerfs", b.sample("src") + ":" + b.mkdir("other"), "{mount}", "-o", "category.create=ff"}
		}},
		{name: "unionfs-fuse", needs: []string{"unionfs-fuse"}, host: inDir("top"), prepare: func(b *bench) []string {
			return []string{"unionfs-fuse", "-o", "cow", b.mkdir("top") + "=RW:" + b.sample("src") + "=RO", "{mount}"}
		}},
		// It gives what it makes to who asks, and in the user's namespace there is only the user.
		{name: "fuse-overlayfs", needs: []string{"fuse-overlayfs"}, host: inDir("top"), rootIsUser: true, prepare: func(b *bench) []string {
			return []string{"fuse-overlayfs", "-o", "lowerdir=" + b.sample("src") + ",upperdir=" + b.mkdir("top") + ",workdir=" + b.mkdir("work"), "{mount}"}
		}},
		// rclone stores a file at RELEASE, and fails if the file is removed at this moment; with its own mount, too.
		{name: "rclone", needs: []string{"rclone"}, omit: sample.Omit{Modes: true, Links: true}, host: inDir("src"), stored: "src", prepare: func(b *bench) []string {
			return []string{"rclone", "mount", "--vfs-cache-mode=writes", "--vfs-write-back=0", "--cache-dir=" + b.mkdir("cache"), b.sample("src"), "{mount}"}
		}},
		// Nobody can look into its memory. Without a cache it stores a file at FLUSH, but can't shorten one.
		{name: "rclone-memory", needs: []string{"rclone"}, empty: true, omit: sample.Omit{Modes: true, Links: true, Truncate: true}, host: noHost, prepare: func(b *bench) []string {
			return []string{"rclone", "mount", "--vfs-cache-mode=off", "--cache-dir=" + b.mkdir("cache"), ":memory:bucket", "{mount}"}
		}},
		{name: "gocryptfs", needs: []string{"gocryptfs"}, empty: true, prepare: func(b *bench) []string {
			b.write("password", "secret\n", 0o600)
			b.run("", "gocryptfs", "-init", "-q", "-scryptn=10", "-passfile", b.path("password"), b.mkdir("crypt"))
			return []string{"gocryptfs", "-q", "-fg", "-passfile", b.path("password"), b.path("crypt"), "{mount}"}
		}},
		{name: "encfs", needs: []string{"encfs"}, empty: true, prepare: func(b *bench) []string {
			return []string{"encfs", "--standard", "--extpass=echo secret", b.mkdir("crypt"), "{mount}"}
		}},
		{name: "fuse-zip", needs: []string{"fuse-zip", "zip"}, empty: true, omit: sample.Omit{Big: true}, prepare: func(b *bench) []string {
			b.run("", "sh", "-c", "echo 1 >first && zip -q -0 a.zip first")
			return []string{"fuse-zip", b.path("a.zip"), "{mount}"}
		}, host: printed("unzip", "-p", "{dir}/a.zip", "{name}")},
		{name: "archivemount", needs: []string{"archivemount", "tar"}, omit: sample.Omit{Rename: true}, prepare: func(b *bench) []string {
			b.run("", "tar", "-C", b.sample("src"), "-cf", b.path("a.tar"), ".")
			return []string{"archivemount", b.path("a.tar"), "{mount}"}
		}, host: printed("sh", "-c", "tar -xOf {dir}/a.tar {name} || tar -xOf {dir}/a.tar ./{name}")},
		{name: "fuse2fs", needs: []string{"fuse2fs", "mke2fs", "debugfs"}, prepare: func(b *bench) []string {
			b.run("", "mke2fs", "-q", "-t", "ext4", "-d", b.sample("src"), b.path("image"), "128M")
			return []string{"fuse2fs", "-o", "fakeroot", b.path("image"), "{mount}"}
		}, host: printed("debugfs", "-R", "cat /{name}", "{dir}/image")},
		{name: "ntfs-3g", needs: []string{"ntfs-3g", "mkntfs", "ntfscat"}, empty: true, prepare: func(b *bench) []string {
			b.run("", "truncate", "-s", "128M", b.path("image"))
			b.run("", "mkntfs", "-q", "-F", b.path("image"))
			return []string{"ntfs-3g", "-o", "permissions", b.path("image"), "{mount}"}
		}, host: printed("ntfscat", "-f", "{dir}/image", "/{name}")},
		{name: "davfs2", needs: []string{"mount.davfs"}, rootOnly: true, omit: sample.Omit{Modes: true, Links: true}, host: inDir("src"), prepare: prepareDAV,
			options: []string{"--stop-timeout=10"}},
		{name: "s3fs", needs: []string{"s3fs"}, omit: sample.Omit{Truncate: true}, host: inBucket, prepare: prepareS3},
		{name: "glusterfs", needs: []string{"/usr/sbin/glusterfs", "/usr/sbin/glusterfsd"}, over: true, host: inBricks, prepare: prepareGluster},
		{name: "nbdfuse", needs: []string{"nbdfuse", "nbdkit"}, own: readDisk, host: onDisk, prepare: func(b *bench) []string {
			b.run("", "truncate", "-s", "64M", b.path("image"))
			return []string{"nbdfuse", "{mount}/disk", "--command", "nbdkit", "-s", "--exit-with-parent", "file", b.path("image")}
		}},
		{name: "lxcfs", needs: []string{"lxcfs"}, rootOnly: true, own: readLXC, options: []string{"--program-capabilities=sys_admin,sys_chroot", "--program-pid=self"}, prepare: func(b *bench) []string {
			return []string{"lxcfs", "-f", "-p", b.path("pid"), "{mount}"}
		}},
	}
}

func noHost(*bench, string, sample.Omit) error { return nil }

// serveTCP listens on a port of the loopback, which it returns, and runs a command for each connection, which is its standard
// input and output, until the end of the test.
func serveTCP(t *testing.T, name string, args ...string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &daemontest.Log{}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			_ = c.Close()
			if err != nil {
				return
			}
			cmd := exec.Command(name, args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, out
			connections.Go(func() {
				if err := cmd.Run(); err != nil {
					fmt.Fprintln(out, err)
				}
				_ = f.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		connections.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, tail(out.String()))
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// prepareSSHFS has a server that lets the user in as root, with a key.
func prepareSSHFS(b *bench) []string {
	b.sample("src")
	key := b.path("key")
	b.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	private := b.t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(private, "host")).CombinedOutput(); err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\nPidFile none\n"+
		"PermitRootLogin yes\nSubsystem sftp internal-sftp\n", private, key)
	if err := os.WriteFile(filepath.Join(private, "config"), []byte(config), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		b.t.Fatal(err)
	}
	port := serveTCP(b.t, "/usr/sbin/sshd", "-i", "-e", "-f", filepath.Join(private, "config"))
	return []string{"sshfs", "-p", fmt.Sprint(port), "-o", "IdentityFile=" + key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "root@127.0.0.1:" + b.path("src"), "{mount}"}
}

// readDisk tries the file of nbdfuse.
func readDisk(_ *bench, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "disk"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != 64<<20 {
		return fmt.Errorf("%v, %w: want 64 MiB", st, err)
	}
	want := bytes.Repeat([]byte("block"), 100_000)
	got := make([]byte, len(want))
	if _, err := f.WriteAt(want, 12_345); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.ReadAt(got, 12_345); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("what was written is not there: %w", err)
	}
	return nil
}

// onDisk looks for what readDisk, or the guest, has written.
func onDisk(b *bench, suffix string, _ sample.Omit) error {
	want, at := "blockblock", 12_345
	if suffix == "-guest" {
		want, at = "block\n", 7*6
	}
	got, err := os.ReadFile(b.path("image"))
	if err == nil && string(got[at:at+len(want)]) != want {
		err = errors.New("what was written is not in the image")
	}
	return err
}

// readLXC looks at what lxcfs has. It tells it as for the control groups of the process that asks: here itself.
func readLXC(_ *bench, dir string) error {
	for name, want := range map[string]string{"cpuinfo": `(?m)^processor\s*: 0$`, "meminfo": `(?m)^MemTotal: *[1-9]\d* kB$`,
		"uptime": `^\d+\.\d\d \d+\.\d\d\n$`, "stat": `(?m)^cpu0 `} {
		got, err := os.ReadFile(filepath.Join(dir, "proc", name))
		if err != nil {
			return err
		}
		if !regexp.MustCompile(want).Match(got) {
			return fmt.Errorf("%s has no %s: %q", name, want, got)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err == nil && len(entries) < 8 {
		err = fmt.Errorf("proc has %v", entries)
	}
	return err
}

// quick are the recipes that are tried here in any case. The others are with GOVIRTIOFS_LONG=1; a guest tries all.
var quick = []string{"raw", "squashfuse", "sshfs", "bindfs", "gocryptfs"}

// chosen reports whether a program is among those of the environment's GOVIRTIOFS_PROGRAMS, such as davfs2,s3fs. Without it all
// are.
func (r *recipe) chosen() bool {
	names := os.Getenv("GOVIRTIOFS_PROGRAMS")
	return names == "" || slices.Contains(strings.Split(names, ","), r.name)
}

// TestIntegrationPrograms: each program's file system is what it should be, here through /dev/fuse.
func TestIntegrationPrograms(t *testing.T) {
	guest.NeedFUSE(t)
	for _, r := range recipes() {
		if !r.chosen() || os.Getenv("GOVIRTIOFS_PROGRAMS") == "" && os.Getenv("GOVIRTIOFS_LONG") != "1" && !slices.Contains(quick, r.name) {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			needPrograms(t, r.needs...)
			r.try(newBench(t, users[0]))
		})
	}
}

// try tries the program here.
func (r *recipe) try(b *bench) {
	t := b.t
	args := r.prepare(b)
	dir, running := b.mounted(r.relayOptions(b.user), args...)
	if r.own != nil {
		if err := r.own(b, dir); err != nil {
			t.Error(err)
		}
		running.stop()
		if r.host != nil {
			r.checkHost(b, args, "-here")
		}
		return
	}
	suffix := "-here"
	if r.readOnly {
		suffix = ""
	}
	b.run("", relaywork, append([]string{dir, suffix, r.work()}, r.ask(b, t.TempDir())...)...)
	running.stop()
	if r.readOnly {
		return
	}
	r.checkHost(b, args, suffix)
}

func (r *recipe) relayOptions(u user) []string {
	if !r.rootIsUser || u.uid == 0 {
		return r.options
	}
	rule := fmt.Sprintf("map:0:%d:1", u.uid)
	return append([]string{"--translate-uid=" + rule, "--translate-gid=" + rule}, r.options...)
}

// work is what relaywork is to leave out, and whether it makes the sample.
func (r *recipe) work() string {
	work := letters(r.omit)
	if r.empty {
		work += "f"
	}
	if r.over {
		work += "o"
	}
	return work
}

func (r *recipe) asks() bool { return r.stored != "" || r.over }

// ask answers the questions of relaywork in a directory, and returns what relaywork is told of it.
func (r *recipe) ask(b *bench, dir string) []string {
	if !r.asks() {
		return nil
	}
	side := b.path(r.stored)
	go sample.Answer(b.t.Context(), dir, func(question string) bool {
		if r.over {
			b.kill()
			return true
		}
		return sample.Stored(question, side)
	})
	return []string{dir}
}

// checkHost looks for what was written at the program's own side.
func (r *recipe) checkHost(b *bench, args []string, suffix string) {
	b.t.Helper()
	if r.host != nil {
		if err := r.host(b, suffix, r.omit); err != nil {
			b.t.Errorf("at the program's side: %v", err)
		}
		return
	}
	again := *b
	again.user = users[0] // others may not be able to mount here
	dir, running := again.mounted(r.relayOptions(again.user), args...)
	if err := sample.CheckWritten(dir, suffix, r.omit); err != nil {
		b.t.Errorf("when it is started again: %v", err)
	}
	running.stop()
}
