package integrators

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// need skips or fails when a program of the host is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	guest.NeedRoot(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			guest.Missing(t, p+" is not installed: run test/integrators/setup.sh")
		}
	}
}

// libvirtScript runs the libvirtd of $tree in a mount namespace. Its state is in
// memory, and the tree has the accounts that its packages would create.
const libvirtScript = `set -e
touch vmlinux
mount --bind "$kernel" vmlinux
mount --bind $tree $tree # the daemon's sandbox takes the root for a mount
for d in run tmp etc/libvirt etc/qemu var/lib/libvirt var/cache/libvirt var/log/libvirt; do
	mkdir -p $tree/$d
	mount -t tmpfs tmpfs $tree/$d
done
for d in proc sys dev var/tmp; do
	mount --rbind /$d $tree/$d
done
echo root:x:0:0::/:/bin/sh >passwd
echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >>passwd
printf 'root:x:0:\nkvm:x:64056:\nlibvirt-qemu:x:64055:\n' >group
for f in passwd group; do
	touch $tree/etc/$f
	mount --bind $f $tree/etc/$f
done
cp qemu.conf $tree/etc/libvirt/
mkdir $tree/etc/qemu/vhost-user
cp fs.json $tree/etc/qemu/vhost-user/
exec chroot $tree /usr/sbin/libvirtd -f "$PWD/libvirtd.conf" -p "$PWD/libvirtd.pid"
`

// qemuConf runs QEMU as root and turns off what a test machine may lack.
const qemuConf = `user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
`

const domainXML = `<domain type='qemu'>
  <name>govirtiofs</name>
  <memory unit='MiB'>256</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>%[4]s/vmlinux</kernel><initrd>%[1]s</initrd><cmdline>%[2]s</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <serial type='file'><source path='%[4]s/console'/></serial>
    <serial type='file'><source path='%[4]s/status'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs' queue='1024'/>
      %[3]s
      <source dir='%[5]s'/>
      <target dir='fs'/>
    </filesystem>
  </devices>
</domain>
`

// libvirt is a running libvirtd.
type libvirt struct {
	t         *testing.T
	dir, tree string
}

func startLibvirt(t *testing.T, dir, tree, kernel string) *libvirt {
	t.Helper()
	for name, text := range map[string]string{
		"libvirtd.conf": fmt.Sprintf("unix_sock_dir = %q\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n", dir),
		"qemu.conf":     qemuConf,
		"fs.json":       fmt.Sprintf(`{"description": "test", "type": "fs", "binary": %q}`, program),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", libvirtScript)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "tree=" + tree, "kernel=" + kernel}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	p := start(t, cmd)
	l := &libvirt{t, dir, tree}
	t.Cleanup(func() {
		_, _ = l.try("destroy", "govirtiofs")
		_ = cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(patience):
			t.Error("libvirtd does not end")
		}
	})
	p.waitFile(dir + "/libvirt-sock")
	return l
}

// try runs virsh.
func (l *libvirt) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	args = append([]string{"-q", "-c", "qemu:///system?socket=" + l.dir + "/libvirt-sock"}, args...)
	cmd := exec.CommandContext(ctx, l.tree+"/usr/bin/virsh", args...)
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (l *libvirt) virsh(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatalf("virsh %s: %v\n%s", args, err, out)
	}
	return out
}

// wantNothingLeft waits until domain and daemon are gone.
func (l *libvirt) wantNothingLeft() {
	l.t.Helper()
	var domains string
	for range 1200 {
		domains = l.virsh("list", "--all", "--name")
		if domains == "" && len(daemons(l.t)) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.t.Errorf("left: domains %q, daemons %v", domains, daemons(l.t))
}

// daemons are the processes that run our program.
func daemons(t *testing.T) (pids []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		// The executable is compared by inode, because its path differs in a
		// chroot.
		if exe, err := os.Stat(link); err == nil && os.SameFile(exe, want) {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

// TestIntegrationLibvirt has libvirt start the daemon and a guest with the share. 9.0
// is the version of Debian 12, which knows only -o. 12.8 uses the daemon's own options
// and finds the daemon by a description file. Both ask the daemon for its capabilities.
func TestIntegrationLibvirt(t *testing.T) {
	for _, v := range []struct{ part, binary, args string }{
		{"libvirt9", "<binary path='" + program + "' xattr='on'><cache mode='always'/><lock posix='on' flock='on'/></binary>",
			"-o source=*,cache=always,xattr,flock,posix_lock"},
		{"libvirt12", "<binary xattr='on'><cache mode='always'/><sandbox mode='chroot'/><thread_pool size='4'/></binary>",
			"--shared-dir * --cache always --sandbox chroot --xattr --thread-pool-size=4"},
	} {
		t.Run(v.part, func(t *testing.T) { testLibvirt(t, v.part, v.binary, v.args) })
	}
}

func testLibvirt(t *testing.T, part, binary, args string) {
	need(t)
	tree := guest.NeedTree(t, part)
	guest.Need(t, guest.QEMU72)
	p := newPlace(t)
	image, err := guest.NewImage(p.dir, guest.QEMU72, guest.Options{
		Shares: []guest.Share{{Tag: "fs"}},
		Script: "set -e; cat /mnt/fs/file; cp /mnt/fs/file /mnt/fs/copy; mkdir /mnt/fs/dir; mv /mnt/fs/copy /mnt/fs/dir",
	})
	if err != nil {
		t.Fatal(err)
	}
	xml := fmt.Sprintf(domainXML, image.Initramfs, image.Args, binary, p.dir, p.share)
	if err := os.WriteFile(p.dir+"/domain.xml", []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	l := startLibvirt(t, p.dir, tree, image.Kernel)
	l.virsh("create", p.dir+"/domain.xml")
	l.wantArgs(strings.ReplaceAll(args, "*", p.share))
	l.waitGuest(p)
	l.wantNothingLeft()
	// A guest that is switched off just after its start.
	l.virsh("create", p.dir+"/domain.xml")
	if len(daemons(t)) == 0 {
		t.Error("no daemon runs")
	}
	l.virsh("destroy", "govirtiofs")
	l.wantNothingLeft()
}

// wantArgs checks the daemon's command line.
func (l *libvirt) wantArgs(want string) {
	l.t.Helper()
	pids := daemons(l.t)
	if len(pids) == 0 {
		l.t.Fatal("no daemon runs")
	}
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if line := strings.ReplaceAll(string(b), "\x00", " "); err != nil || !strings.Contains(line, want) {
			l.t.Errorf("daemon: %s, %v, want %s", line, err, want)
		}
	}
}

// waitGuest waits until the guest's script has ended, and checks what it did.
func (l *libvirt) waitGuest(p place) {
	l.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	status, err := guest.Status(p.dir + "/status")
	for ; errors.Is(err, guest.ErrNoStatus) && time.Now().Before(deadline); status, err = guest.Status(p.dir + "/status") {
		time.Sleep(100 * time.Millisecond)
	}
	console, _ := os.ReadFile(p.dir + "/console")
	if err != nil || status != 0 || !strings.Contains(string(console), strings.TrimSpace(content)) {
		l.t.Fatalf("guest: status %d, %v\n%s", status, err, console)
	}
	if b, err := os.ReadFile(p.share + "/dir/copy"); err != nil || string(b) != content {
		l.t.Errorf("what the guest wrote: %q, %v", b, err)
	}
}
