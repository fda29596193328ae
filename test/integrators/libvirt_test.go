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
	if os.Geteuid() != 0 {
		missing(t, "this test needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, p+" is not installed: run test/integrators/setup.sh")
		}
	}
}

// libvirtScript runs libvirtd with everything that it keeps, and the accounts that its
// packages make, in a mount namespace of its own.
const libvirtScript = `set -e
for d in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
	mkdir -p $d
	mount -t tmpfs tmpfs $d
done
for f in passwd group; do
	cp /etc/$f .
done
echo 'libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin' >>passwd
printf 'libvirt-qemu:x:64055:\nkvm:x:64056:\n' >>group
for f in passwd group; do
	mount --bind $f /etc/$f
done
cp qemu.conf /etc/libvirt/
exec libvirtd -f "$PWD/libvirtd.conf" -p "$PWD/libvirtd.pid"
`

// qemuConf has QEMU run as root and without what a test machine may lack.
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
    <kernel>%[1]s</kernel><initrd>%[2]s</initrd><cmdline>%[3]s</cmdline>
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
      <binary path='%[5]s' xattr='on'><cache mode='always'/><lock posix='on' flock='on'/></binary>
      <source dir='%[6]s'/>
      <target dir='fs'/>
    </filesystem>
  </devices>
</domain>
`

// libvirt is a running libvirtd.
type libvirt struct {
	t   *testing.T
	dir string
}

func startLibvirt(t *testing.T, dir string) *libvirt {
	t.Helper()
	conf := fmt.Sprintf("unix_sock_dir = %q\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n", dir)
	if err := errors.Join(os.WriteFile(dir+"/libvirtd.conf", []byte(conf), 0o600), os.WriteFile(dir+"/qemu.conf", []byte(qemuConf), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", libvirtScript)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	p := start(t, cmd)
	l := &libvirt{t, dir}
	t.Cleanup(func() {
		_, _ = l.try("destroy", "govirtiofs")
		_ = cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(patience):
			t.Error("libvirtd does not end")
		}
	})
	p.waitFile(dir+"/libvirt-sock", 200, 50*time.Millisecond)
	return l
}

// try runs virsh.
func (l *libvirt) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append([]string{"-q", "-c", "qemu:///system?socket=" + l.dir + "/libvirt-sock"}, args...)
	out, err := exec.CommandContext(ctx, "virsh", args...).CombinedOutput()
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
	for range 400 {
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
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && exe == program {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

// TestIntegrationLibvirt has libvirt start the daemon and a guest with the share.
func TestIntegrationLibvirt(t *testing.T) {
	need(t, "libvirtd", "virsh", "qemu-system-x86_64")
	guest.Need(t, guest.QEMU72)
	p := newPlace(t)
	image, err := guest.NewImage(p.dir, guest.QEMU72, guest.Options{
		Shares: []guest.Share{{Tag: "fs"}},
		Script: "set -e; cat /mnt/fs/file; cp /mnt/fs/file /mnt/fs/copy; mkdir /mnt/fs/dir; mv /mnt/fs/copy /mnt/fs/dir",
	})
	if err != nil {
		t.Fatal(err)
	}
	xml := fmt.Sprintf(domainXML, image.Kernel, image.Initramfs, image.Args, p.dir, program, p.share)
	if err := os.WriteFile(p.dir+"/domain.xml", []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	l := startLibvirt(t, p.dir)
	t.Run("guest", func(t *testing.T) { l.runGuest(t, p) })
	t.Run("destroy", func(t *testing.T) {
		l := &libvirt{t, l.dir}
		l.virsh("create", p.dir+"/domain.xml")
		if len(daemons(t)) == 0 {
			t.Error("no daemon runs")
		}
		l.virsh("destroy", "govirtiofs")
		l.wantNothingLeft()
	})
}

// runGuest runs the guest's script to its end.
func (l *libvirt) runGuest(t *testing.T, p place) {
	l = &libvirt{t, l.dir}
	l.virsh("create", p.dir+"/domain.xml")
	deadline := time.Now().Add(90 * time.Second)
	status, err := guest.Status(p.dir + "/status")
	for ; errors.Is(err, guest.ErrNoStatus) && time.Now().Before(deadline); status, err = guest.Status(p.dir + "/status") {
		time.Sleep(100 * time.Millisecond)
	}
	console, _ := os.ReadFile(p.dir + "/console")
	if err != nil || status != 0 || !strings.Contains(string(console), strings.TrimSpace(content)) {
		t.Fatalf("guest: status %d, %v\n%s", status, err, console)
	}
	if b, err := os.ReadFile(p.share + "/dir/copy"); err != nil || string(b) != content {
		t.Errorf("what the guest wrote: %q, %v", b, err)
	}
	l.wantNothingLeft()
}
