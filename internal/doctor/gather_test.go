package doctor

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseCommandLines(t *testing.T) {
	for name, test := range map[string]struct {
		line string
		want VMM
	}{
		"qemu, not shared": {"qemu-system-x86_64 -m 4G -smp 4 -chardev socket,id=c,path=/s -device vhost-user-fs-pci,chardev=c,tag=t",
			VMM{Name: "qemu", Memory: "4G", CPUs: 4, Devices: []FSDevice{{Tag: "t", Socket: "/s"}}}},
		"qemu, memfd": {"/usr/bin/qemu-kvm -m size=2G -smp cpus=2,sockets=1 -object memory-backend-memfd,id=m,size=2G -numa node,memdev=m " +
			"-chardev socket,id=c,path=/a,,b -device vhost-user-fs-pci,queue-size=1024,num-request-queues=3,chardev=c,tag=t",
			VMM{Name: "qemu", Memory: "2G", CPUs: 2, Shared: true, Backend: "memory-backend-memfd", Devices: []FSDevice{{"t", "/a,b", 3, 1024, false}}}},
		"qemu, backend without share": {"qemu-system-x86_64 -object memory-backend-file,id=m,mem-path=/dev/shm -machine q35,memory-backend=m",
			VMM{Name: "qemu", Backend: "memory-backend-file"}},
		"qemu, one node not shared": {"qemu-system-x86_64 -object memory-backend-ram,id=a,share=on -object memory-backend-ram,id=b -numa node,memdev=a -numa node,memdev=b",
			VMM{Name: "qemu", Backend: "memory-backend-ram"}},
		"qemu, backend not in use": {"qemu-system-x86_64 -object memory-backend-memfd,id=m,share=on", VMM{Name: "qemu"}},
		"libvirt": {`qemu-system-x86_64 -object {"qom-type":"memory-backend-memfd","id":"pc.ram","share":true} -machine pc,memory-backend=pc.ram ` +
			`-overcommit mem-lock=on -chardev socket,id=chr,path=/l/fs.sock -device {"driver":"vhost-user-fs-pci","queue-size":1024,"chardev":"chr","tag":"data"}`,
			VMM{Name: "qemu", Shared: true, Locks: true, Backend: "memory-backend-memfd", Devices: []FSDevice{{"data", "/l/fs.sock", 0, 1024, false}}}},
		"qemu, generic device": {"qemu-system-x86_64 -chardev socket,id=c,path=/s -device vhost-user-test-device-pci,chardev=c,virtio-id=26,num_vqs=3,vq_size=256 -device vhost-user-device,virtio-id=1",
			VMM{Name: "qemu", Devices: []FSDevice{{"", "/s", 2, 256, true}}}},
		"cloud-hypervisor": {"cloud-hypervisor --cpus boot=4,max=8 --memory size=4G,shared=on --fs tag=a,socket=/1,num_queues=2,queue_size=512 tag=b,socket=/2 --net tap=x",
			VMM{Name: "cloud-hypervisor", Memory: "4G", Shared: true, CPUs: 4, Devices: []FSDevice{{"a", "/1", 2, 512, false}, {"b", "/2", 0, 0, false}}}},
		"cloud-hypervisor, not shared": {"cloud-hypervisor-static --memory size=1G", VMM{Name: "cloud-hypervisor", Memory: "1G"}},
		"crosvm":                       {"crosvm run --cpus 2 --vhost-user type=fs,socket=/c --vhost-user type=net,socket=/n", VMM{Name: "crosvm", Shared: true, CPUs: 2, Devices: []FSDevice{{Socket: "/c"}}}},
		"uml":                          {"linux.uml mem=1G virtio_uml.device=/u:26 virtio_uml.device=/net:1", VMM{Name: "uml", Shared: true, Devices: []FSDevice{{Socket: "/u"}}}},
		"other":                        {"sshd -D", VMM{}},
	} {
		t.Run(name, func(t *testing.T) {
			var v VMM
			v.parse(strings.Fields(test.line))
			if !reflect.DeepEqual(v, test.want) {
				t.Errorf("got  %+v\nwant %+v", v, test.want)
			}
		})
	}
}

func TestBefore(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-18-amd64": true, "5.15.2": true, "6.11.0": false, "6.12": false, "7.0-rc1": false, "6.10": true, "what": false, "": false,
	} {
		if got := before(release, 6, 11); got != want {
			t.Errorf("before(%q, 6, 11) = %v", release, got)
		}
	}
}

// TestSocketFindsPeers makes a socket as the daemon does, renamed after bind, and
// connects to it.
func TestSocketFindsPeers(t *testing.T) {
	if _, err := unixSockets(); err != nil {
		t.Skip("the kernel lists no unix sockets: ", err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".new", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	h := host{root: "/"}
	s := h.socket(path)
	if !s.Listening || s.Connected != 0 || !slices.Equal(s.Owners, []int{os.Getpid()}) || len(s.Front) != 0 {
		t.Errorf("listening: %+v", s)
	}
	front, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	back, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	l.Close()
	s = h.socket(path)
	if s.Listening || s.Connected != 1 || !slices.Equal(s.Front, []int{os.Getpid()}) {
		t.Errorf("connected: %+v", s)
	}
	back.Close()
	front.Close()
	if s = h.socket(path); s.Listening || s.Connected != 0 || s.Err != nil {
		t.Errorf("stale: %+v", s)
	}
}

// TestParseSockets parses answers of the kernel that are cut short. No read may pass
// the end.
func TestParseSockets(t *testing.T) {
	whole := make([]byte, unix.SizeofNlMsghdr+16+12+8)
	binary.NativeEndian.PutUint32(whole, uint32(len(whole)))
	binary.NativeEndian.PutUint16(whole[4:], diagFamily)
	msg := whole[unix.SizeofNlMsghdr:]
	msg[2] = tcpListen
	binary.NativeEndian.PutUint32(msg[4:], 77)
	vfs := msg[16:]
	binary.NativeEndian.PutUint16(vfs, 12)
	binary.NativeEndian.PutUint16(vfs[2:], attrVFS)
	binary.NativeEndian.PutUint32(vfs[4:], 5)
	binary.NativeEndian.PutUint32(vfs[8:], 6)
	peer := vfs[12:]
	binary.NativeEndian.PutUint16(peer, 8)
	binary.NativeEndian.PutUint16(peer[2:], attrPeer)
	binary.NativeEndian.PutUint32(peer[4:], 78)
	got, more, err := parseSockets(whole)
	want := []unixSocket{{Inode: 77, Listening: true, FileInode: 5, FileDev: 6, Peer: 78}}
	if err != nil || !more || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v, %v", got, more, err)
	}
	for n := range whole {
		short := slices.Clone(whole[:n])
		if n >= 4 {
			binary.NativeEndian.PutUint32(short, uint32(n))
		}
		if got, _, _ := parseSockets(short); len(got) > 1 {
			t.Errorf("%d bytes: %+v", n, got)
		}
	}
	if _, _, err := parseSockets(whole[:20]); !errors.Is(err, errNetlink) {
		t.Errorf("message longer than the datagram: %v", err)
	}
}

func TestShareOfThisMachine(t *testing.T) {
	dir := t.TempDir()
	s := gatherShare(dir)
	if s.Err != nil || !s.Mode.IsDir() || s.CanRead != nil || s.CanPut != nil || s.FSType == 0 {
		t.Errorf("%+v", s)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the examination has left %v, %v", left, err)
	}
	if s := gatherShare(filepath.Join(dir, "none")); !errors.Is(s.Err, os.ErrNotExist) {
		t.Errorf("%+v", s)
	}
}

// tree writes files of /proc and /sys to a directory. A value that begins with "->" is
// a symbolic link.
func tree(t *testing.T, files map[string]string) host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return host{root: root}
}

func TestSysctlsAndSubIDs(t *testing.T) {
	h := tree(t, map[string]string{
		"proc/sys/kernel/unprivileged_userns_clone":             "1\n",
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
		"proc/sys/user/max_user_namespaces":                     "1000\n",
		"etc/subuid":                                            "joe:100000:65536\n# no\n1000:7:1\nann:1:1\n",
		"proc/12/status":                                        "Uid:\t5\t6\t6\t6\nGid:\t1\t2\t2\t2\nGroups:\t3 4 \n",
		"proc/12/cmdline":                                       "qemu-system-x86_64\x00-m\x001G\x00-chardev\x00socket,path=/run/fs.sock\x00",
		"proc/12/limits":                                        "Max locked memory         8388608              8388608              bytes\n",
		"proc/12/attr/current":                                  "libvirt-1 (enforce)\n",
		"proc/13/cmdline":                                       "less\x00/run/fs.sock\x00",
	})
	if got := h.userNamespaces(); got != "kernel.apparmor_restrict_unprivileged_userns=1" {
		t.Errorf("userNamespaces: %q", got)
	}
	if got := h.subIDs("etc/subuid", "joe", 1000); !slices.Equal(got, []idRange{{100000, 65536}, {7, 1}}) {
		t.Errorf("subIDs: %v", got)
	}
	got := h.vmms("/run/fs.sock", nil, nil)
	if len(got) != 1 || got[0].PID != 12 || got[0].UID != 6 || !slices.Equal(got[0].Groups, []int{2, 3, 4}) ||
		got[0].AppArmor != "libvirt-1" || got[0].LockLimit != 8388608 || got[0].Memory != "1G" {
		t.Errorf("vmms: %+v", got)
	}
}

func TestGuest(t *testing.T) {
	h := tree(t, map[string]string{
		"proc/filesystems":                      "nodev\tfuse\nnodev\tvirtiofs\n",
		"proc/cpuinfo":                          "processor\t: 0\nprocessor\t: 1\n",
		"proc/interrupts":                       " 27: 0 5 PCI-MSIX virtio0-config\n 28: 1 1 PCI-MSIX virtio0-hiprio\n 29: 3 3 PCI-MSIX virtio0-requests.0\n 30: 0 0 PCI-MSIX virtio0-requests.1\n 31: 0 0 PCI-MSIX virtio1-requests.0\n",
		"proc/iomem":                            "80000000-8fffffff : PCI Bus\n  80000000-83ffffff : virtio0\n",
		"proc/self/mounts":                      "data /mnt virtiofs rw,relatime,dax=inode 0 0\n",
		"proc/sys/fs/fuse/max_pages_limit":      "128\n",
		"sys/bus/virtio/devices/virtio0/device": "0x001a\n",
		"sys/bus/virtio/devices/virtio0/driver": "->../../drivers/virtiofs",
		"sys/bus/virtio/devices/virtio9/device": "0x0001\n",
		"sys/fs/virtiofs/2/tag":                 "data\n",
		"sys/fs/virtiofs/2/device":              "->../../../bus/virtio/devices/virtio0",
		"sys/fs/virtiofs/2/mqs/0/name":          "hiprio\n",
		"sys/fs/virtiofs/2/mqs/0/cpu_list":      "0, 1\n",
		"sys/fs/virtiofs/2/mqs/1/name":          "requests.0\n",
		"sys/fs/virtiofs/2/mqs/1/cpu_list":      "0, 1\n",
		"sys/fs/virtiofs/2/mqs/2/name":          "requests.1\n",
		"sys/fs/virtiofs/2/mqs/2/cpu_list":      "2, 3\n",
	})
	g := h.guest()
	g.Release, g.DAX, g.Root = "7.2.1", on, true
	want := []GuestDevice{{Name: "virtio0", Bound: true, Tag: "data", Queues: 2, Used: 1, Window: "80000000-83ffffff"}}
	if !reflect.DeepEqual(g.Devices, want) || !g.Tags || g.CPUs != 2 || !g.Driver {
		t.Fatalf("%+v", g)
	}
	expectFinding(t, ExamineGuest(g, "data"), Warn, "guest.max-pages", "512 KiB", "sysctl")
}

func TestExamineGuest(t *testing.T) {
	for name, test := range map[string]struct {
		spoil        func(g *Guest)
		tag          string
		status       Status
		check        string
		text, remedy string
	}{
		"no driver":     {func(g *Guest) { g.Driver = false }, "", Fail, "guest.driver", "no virtiofs", "CONFIG_VIRTIO_FS"},
		"not loaded":    {func(g *Guest) { g.Driver, g.Module = false, true }, "", Fail, "guest.driver", "not loaded", "modprobe virtiofs"},
		"no device":     {func(g *Guest) { g.Devices = nil }, "", Fail, "guest.device", "no virtio-fs device", "vhost-user-fs"},
		"no pci driver": {func(g *Guest) { g.Devices, g.PCI = nil, true }, "", Fail, "guest.device", "no driver", "virtio_pci"},
		"unbound":       {func(g *Guest) { g.Devices[0].Bound = false }, "", Fail, "guest.device", "without a driver", "modprobe"},
		"other tag":     {func(*Guest) {}, "src", Fail, "guest.tag", "called src; there are: data", "VMM"},
		// Linux before 6.12 gives all queues an interrupt and uses the first one.
		"old kernel": {func(g *Guest) { g.Release, g.Devices[0].Used = "6.1.0-18-cloud-amd64", 0 }, "", Warn,
			"guest.queues", "uses one request queue of 4", "6.12"},
		"6.11":           {func(g *Guest) { g.Release, g.Devices[0].Used = "6.11.4", 0 }, "", Warn, "guest.queues", "one request queue of 4", "6.12"},
		"backport":       {func(g *Guest) { g.Release = "5.14.0-700.el9.x86_64" }, "", OK, "guest.queues", "4 request queues are in use", ""},
		"old, one queue": {func(g *Guest) { g.Release, g.Devices[0].Queues, g.Devices[0].Used = "6.1.0", 1, 0 }, "", OK, "guest.queues", "one request queue is in use", "6.12"},
		"one queue":      {func(g *Guest) { g.Devices[0].Queues, g.Devices[0].Used = 1, 1 }, "", Warn, "guest.queues", "for 4 processors", "num-request-queues=4"},
		"shared vectors": {func(g *Guest) { g.Devices[0].Queues, g.Devices[0].Used = 0, 1 }, "", Warn, "guest.queues", "for 4 processors", "num-request-queues=4"},
		"no sysfs":       {func(g *Guest) { g.Devices[0].Queues, g.Devices[0].Used = 0, 0 }, "", OK, "guest.queues", "the number of queues in use is unknown", ""},
		"dax, no window": {func(g *Guest) { g.Mounts = []GuestMount{{"data", "/mnt", "rw,dax=always"}} }, "", Warn, "guest.dax", "no window", "doc/dax.md"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Guest{Release: "7.2.1", Driver: true, Tags: true, CPUs: 4, DAX: on, Root: true,
				Devices: []GuestDevice{{Name: "virtio0", Bound: true, Tag: "data", Queues: 4, Used: 4}}}
			test.spoil(g)
			expectFinding(t, ExamineGuest(g, test.tag), test.status, test.check, test.text, test.remedy)
		})
	}
}
