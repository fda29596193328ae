// Package vsock runs the two ends of a share over vsock with real guests: govirtiofsd on the host,
// govirtiofs-guest in the guest, and between them a virtio-vsock device, ours or another.
package vsock

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// umlDeviceID is the number of virtio-vsock in the virtio specification.
const umlDeviceID = 19

// modules are those for AF_VSOCK, in the order in which they have to be loaded.
var modules = []string{"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport", "vsock_loopback"}

var programs struct {
	sync.Once
	dir string
	err error
}

// program returns a program of this repository.
func program(t *testing.T, name string) string {
	t.Helper()
	programs.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("/tmp", "vsock"); programs.err != nil {
			return
		}
		programs.err = guest.Build("-trimpath", "-ldflags", "-s -w", "-o", programs.dir, "./cmd/govirtiofsd", "./cmd/govirtiofs", "./cmd/govirtiofs-guest", "./test/vsock/mount9p", "./test/vsock/model")
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return filepath.Join(programs.dir, name)
}

func TestMain(m *testing.M) {
	status := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(status)
}

// start starts a program and waits for its socket. The program ends with the
// test.
func start(t *testing.T, socket, name string, args ...string) (*exec.Cmd, *daemontest.Log) {
	t.Helper()
	log := &daemontest.Log{}
	cmd := exec.Command(name, args...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), log)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return cmd, log
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s makes no %s:\n%s", name, socket, log)
		}
	}
}

// host is the host's side: a share, a daemon, a device.
type host struct {
	dir, share, token string
	daemon            *exec.Cmd
	log               *daemontest.Log   // the daemon's
	files             map[string]string // of the guest
}

const token = "a secret of root in the guest"

// newHost starts them. A device that is not ours is a program with the options of
// vhost-device-vsock.
func newHost(t *testing.T, kind guest.Kind, device string) *host {
	t.Helper()
	guest.Need(t, kind)
	extra := guest.NeedTree(t, "vsock")
	dir, err := os.MkdirTemp("/tmp", "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{dir: dir, share: filepath.Join(dir, "share"), token: filepath.Join(dir, "token"), files: map[string]string{}}
	for i, m := range modules {
		h.files[filepath.Join(filepath.Dir(extra), kind.String(), m+".ko")] = fmt.Sprintf("/run/%d-%s.ko", i, m)
	}
	h.files[program(t, "govirtiofs-guest")] = "/run/govirtiofs-guest"
	if err := os.Mkdir(h.share, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.token, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	uds := h.uds()
	h.daemon, h.log = start(t, uds+"_1024", program(t, "govirtiofsd"), "--shared-dir", h.share, "--vsock-uds", uds, "--vsock-token", h.token)
	if device == "" {
		start(t, h.device(), program(t, "govirtiofs"), "vsock-device", "--socket-path", h.device(), "--uds-path", uds, "--guest-cid", "5")
	} else {
		start(t, h.device(), filepath.Join(extra, "usr/bin", device), "--guest-cid=5", "--socket="+h.device(), "--uds-path="+uds)
	}
	return h
}

// uds is the Unix socket of the vsock device.
func (h *host) uds() string { return filepath.Join(h.dir, "v") }

func (h *host) device() string { return filepath.Join(h.dir, "device") }

// prologue loads the modules and makes the programs ready in the guest.
const prologue = `set -e
for m in /run/[0-9]-*.ko; do $BUSYBOX insmod $m; done
$BUSYBOX mount -t devtmpfs dev /dev 2>/dev/null || true
mkdir -p /mnt/s /run/bin
$BUSYBOX cp /run/govirtiofs-guest /run/bin/govirtiofs-guest; $BUSYBOX ln -s govirtiofs-guest /run/bin/mount.govirtiofs
$BUSYBOX chmod 755 /run/bin/govirtiofs-guest
echo -n '` + token + `' >/run/token; $BUSYBOX chmod 600 /run/token
guest=/run/bin/govirtiofs-guest
`

// work uses a mounted share in many ways, and leaves results for the host.
const work = `
$guest mount -o token=/run/token vsock:2:1024 /mnt/s
$BUSYBOX grep govirtiofs /proc/mounts
$BUSYBOX dd if=/mnt/s/given of=/run/given bs=64k 2>/dev/null
$BUSYBOX sha256sum </run/given
$BUSYBOX cp /run/given /mnt/s/copy; $BUSYBOX sync
mkdir /mnt/s/d; for i in $($BUSYBOX seq 200); do echo $i >/mnt/s/d/$i; done
$BUSYBOX ls /mnt/s/d | $BUSYBOX wc -l
$BUSYBOX mv /mnt/s/d /mnt/s/e; $BUSYBOX rm -r /mnt/s/e
$BUSYBOX ln -s copy /mnt/s/link; $BUSYBOX cat /mnt/s/link | $BUSYBOX sha256sum
$BUSYBOX umount /mnt/s
/run/bin/mount.govirtiofs vsock:2:1024/any /mnt/s -o rw,_netdev,channels=2,token=/run/token
$BUSYBOX ls /mnt/s
$BUSYBOX umount /mnt/s
# The process in the background tells the host; the guest's end would end it.
for i in $($BUSYBOX seq 100); do $BUSYBOX ps | $BUSYBOX grep -q '[@]/run' || break; $BUSYBOX sleep 0.1; done
`

// refused tries to connect as unprivileged processes of the guest: with root's token, and with
// one of their own.
const refused = `
$BUSYBOX chmod 777 /run
own='echo another secret of nobody >/run/own; chmod 600 /run/own'
for t in /run/token /run/own; do
	$BUSYBOX su -s /bin/sh nobody -c "$own; $guest mount -o token=$t vsock:2:1024 /mnt/s" 2>&1 && echo "nobody has mounted" || echo "nobody: status $?"
done
`

// loopback starts the daemon in the guest as well, on its AF_VSOCK port. The guest's own CID 1
// reaches it, so no vsock of the host is used.
const loopback = `
mkdir /run/share /run/n; echo words >/run/share/file; $BUSYBOX chmod 777 /run/n
$BUSYBOX cp /run/govirtiofsd /run/bin/govirtiofsd; $BUSYBOX chmod 755 /run/bin/govirtiofsd
daemon() { # daemon VSOCK: starts a daemon
	: >/run/log # not what the one before has said
	/run/bin/govirtiofsd --shared-dir /run/share --sandbox none --vsock $1 >/run/log 2>&1 &
	pid=$!
	for i in $($BUSYBOX seq 100); do $BUSYBOX grep -q 'Waiting for guests' /run/log && return; $BUSYBOX sleep 0.1; done
	cat /run/log; exit 1
}
daemon 1:1024
$guest mount vsock:1:1024/x /mnt/s
cat /mnt/s/file; echo more >/mnt/s/new; $BUSYBOX umount /mnt/s; cat /run/share/new
$BUSYBOX su -s /bin/sh nobody -c "$guest mount vsock:1:1024 /run/n" 2>&1 && echo "nobody has mounted" || echo "nobody: status $?"
kill $pid; wait $pid; echo "daemon: status $?"
cat /run/log
daemon 1024
$guest mount vsock:1:1024/x /mnt/s 2>&1 && echo "local program has mounted" || echo "local: status $?"
kill $pid; wait $pid
daemon 9:1024
$guest mount vsock:1:1024/x /mnt/s 2>&1 && echo "other guest has mounted" || echo "other: status $?"
`

// options are those of a guest that has the device.
func (h *host) options(kind guest.Kind, script string) guest.Options {
	o := guest.Options{Script: prologue + script, Files: h.files, Timeout: 3 * time.Minute}
	if kind == guest.UML {
		o.ExtraArgs = []string{fmt.Sprintf("virtio_uml.device=%s:%d", h.device(), umlDeviceID)}
	} else {
		o.ExtraArgs = []string{"-chardev", "socket,id=vsock,path=" + h.device(), "-device", "vhost-user-vsock-pci,chardev=vsock"}
	}
	return o
}

// boots is what the initramfs does with the boot script, whose functions those of initramfs-tools stand for. Root
// has a program then.
const boots = `
$BUSYBOX cp $BUSYBOX /run/bin/busybox; for p in cat cp mkdir sleep chroot; do $BUSYBOX ln -s busybox /run/bin/$p; done
PATH=/run/bin
log_begin_msg() { echo "begin: $*"; }
log_end_msg() { echo end; }
panic() { echo "panic: $*"; exit 9; }
modprobe() { echo "modprobe $*"; }
ROOT=vsock:2:1024/root ROOTFLAGS='-o token=/run/token,noatime' rootmnt=/run/root readonly=n
set -u
. /run/script
mount_top; mount_premount; mountroot; mount_bottom
set +u
busybox grep /run/root /proc/mounts
busybox cp /run/bin/busybox /run/root/busybox
chroot /run/root /busybox sh -c 'echo "root has $(/busybox cat /words)"'
busybox umount /run/root
# Nothing is there to mount: it gives up.
ROOT=vsock:2:1/root ROOTDELAY=2; mountroot
`

func (h *host) run(t *testing.T, kind guest.Kind, script string) string {
	t.Helper()
	r, err := guest.Run(context.Background(), kind, h.options(kind, script))
	return h.output(t, r, err)
}

// output is what a guest has said, which must have ended well.
func (h *host) output(t *testing.T, r guest.Result, err error) string {
	t.Helper()
	if err != nil || r.Status != 0 {
		t.Fatalf("%v, status %d\n%s\n%s\nhost:\n%s", err, r.Status, r.Output, r.Console, h.log)
	}
	return r.Output
}

// given makes a file for the guest to read and returns its SHA-256.
func (h *host) given(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "head -c 8000001 /dev/urandom >"+h.share+"/given; sha256sum <"+h.share+"/given").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[0]
}

func (h *host) check(t *testing.T, said, sum string) {
	t.Helper()
	if strings.Count(said, sum) != 2 || !strings.Contains(said, "fuse.govirtiofs") || !strings.Contains(said, "\n200\n") {
		t.Errorf("want %s twice:\n%s", sum, said)
	}
	out, err := exec.Command("cmp", filepath.Join(h.share, "given"), filepath.Join(h.share, "copy")).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(h.share, "e")); err == nil {
		t.Error("the directory that was removed is there")
	}
	if n := strings.Count(h.log.String(), "unmounted"); n != 2 {
		t.Errorf("%d sessions have ended, want 2:\n%s", n, h.log)
	}
}

// TestIntegrationUML: a share over our device and another one, in Linux 7.2.
func TestIntegrationUML(t *testing.T) {
	for name, device := range map[string]string{"our device": "", "vhost-device-vsock": "vhost-device-vsock"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, guest.UML, device)
			sum := h.given(t)
			h.check(t, h.run(t, guest.UML, work), sum)
		})
	}
}

// TestIntegrationQEMU: the same with a VMM, in Linux 6.1: QEMU 7.2 with our device and QEMU 11.1 with the other
// one, and with GOVIRTIOFS_LONG=1 each with the other.
func TestIntegrationQEMU(t *testing.T) {
	const other = "vhost-device-vsock"
	for _, c := range []struct {
		name   string
		kind   guest.Kind
		device string
		long   bool
	}{
		{"7.2 and our device", guest.QEMU72, "", false},
		{"11.1 and " + other, guest.QEMU11, other, false},
		{"7.2 and " + other, guest.QEMU72, other, true},
		{"11.1 and our device", guest.QEMU11, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && os.Getenv("GOVIRTIOFS_LONG") == "" {
				return
			}
			guest.Need(t, c.kind)
			h := newHost(t, guest.QEMU72, c.device) // whose kernel it is
			sum := h.given(t)
			o := h.options(c.kind, work)
			if c.kind != guest.QEMU72 {
				o.Kernel = guest.QEMU72
			}
			r, err := guest.Run(context.Background(), c.kind, o)
			h.check(t, h.output(t, r, err), sum)
		})
	}
}

// TestIntegrationRefused: an unprivileged process of the guest is refused, and the host says so.
func TestIntegrationRefused(t *testing.T) {
	h := newHost(t, guest.UML, "")
	said := h.run(t, guest.UML, refused)
	if strings.Contains(said, "has mounted") || strings.Count(said, "nobody: status 1") != 2 || !strings.Contains(said, "permission denied") || !strings.Contains(said, "token is wrong") {
		t.Error(said)
	}
	if !strings.Contains(h.log.String(), "refused") || !strings.Contains(h.log.String(), "token is wrong") {
		t.Errorf("the host says\n%s", h.log)
	}
}

// TestIntegrationLoopback: the daemon's AF_VSOCK port lets in root's processes of the guest that
// it is for, and refuses all others.
func TestIntegrationLoopback(t *testing.T) {
	h := newHost(t, guest.UML, "")
	h.files[program(t, "govirtiofsd")] = "/run/govirtiofsd"
	said := h.run(t, guest.UML, loopback)
	for _, want := range []string{"words\nmore\n", "source port", "must be below 1024", "nobody: status 1", "refused", "unmounted", "daemon: status 0",
		"only with --vsock=1:PORT", "local: status 1", "only the guest with CID 9", "other: status 1"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}

// TestIntegrationBoot: the boot script of initramfs-tools mounts a root file system over vsock.
func TestIntegrationBoot(t *testing.T) {
	h := newHost(t, guest.UML, "")
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	h.files[filepath.Join(root, "packaging/initramfs/script")] = "/run/script"
	if err := os.WriteFile(filepath.Join(h.share, "words"), []byte("words"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := guest.Run(context.Background(), guest.UML, h.options(guest.UML, boots))
	if err != nil || r.Status != 9 {
		t.Fatalf("%v, status %d\n%s\n%s", err, r.Status, r.Output, h.log)
	}
	for _, want := range []string{"modprobe -q vmw_vsock_virtio_transport", "begin: Mounting vsock:2:1024/root\nend\n", "noatime", "root has words", "panic: Can't mount vsock:2:1/root"} {
		if !strings.Contains(r.Output, want) {
			t.Errorf("no %q in\n%s", want, r.Output)
		}
	}
}
