package doctor

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Guest is what the kernel of a guest tells about its shares.
type Guest struct {
	Release   string
	Driver    bool // virtiofs can be mounted
	Module    bool // virtiofs can be loaded
	PCI       bool // there is a virtio-fs device without a virtio driver
	Devices   []GuestDevice
	Tags      bool // the kernel tells the tags of devices
	Mounts    []GuestMount
	DAX       option // CONFIG_FUSE_DAX
	MaxPages  int    // fs.fuse.max_pages_limit, 0 if there is none
	CPUs      int
	Root      bool // the caller may see all of this
	Interrupt bool // /proc/interrupts can be read
}

// GuestDevice is a virtio-fs device in a guest.
type GuestDevice struct {
	Name   string // virtio0
	Bound  bool   // to the driver
	Tag    string // "" if the kernel does not tell
	Queues int    // request queues that the device has, 0 if unknown
	Used   int    // request queues that some processor sends to, 0 if unknown
	Window string // range of the DAX window, "" without one
}

// GuestMount is a mounted share.
type GuestMount struct{ Tag, Dir, Options string }

// option is a setting of the kernel's configuration.
type option int

const (
	unknown option = iota
	off
	on
)

// fsDevice is the number of file system devices in virtio's list (virtio 1.2, 5
// Device Types).
const fsDevice = "0x001a"

// GatherGuest looks at the machine as a guest.
func GatherGuest() *Guest {
	return host{root: "/"}.guest()
}

func (h host) guest() *Guest {
	var u unix.Utsname
	_ = unix.Uname(&u)
	g := &Guest{Release: unix.ByteSliceToString(u.Release[:]), Root: os.Geteuid() == 0}
	g.Driver = slices.Contains(strings.Fields(h.read("proc/filesystems")), "virtiofs")
	modules := "lib/modules/" + g.Release + "/modules."
	g.Module = strings.Contains(h.read(modules+"dep"), "/virtiofs.ko") || strings.Contains(h.read(modules+"builtin"), "/virtiofs.ko")
	g.PCI = h.unboundPCI()
	g.Devices, g.Tags = h.guestDevices()
	g.Mounts = h.virtiofsMounts()
	g.DAX = h.kernelOption("CONFIG_FUSE_DAX", g.Release)
	g.MaxPages = h.readInt("proc/sys/fs/fuse/max_pages_limit", 0)
	g.CPUs = len(h.processors())
	g.Interrupt = h.exists("proc/interrupts")
	return g
}

// unboundPCI reports whether there is a virtio-fs device on PCI that no driver
// has bound to: the kernel lacks virtio_pci.
func (h host) unboundPCI() bool {
	devices, _ := filepath.Glob(filepath.Join(h.root, "sys/bus/pci/devices/*"))
	for _, d := range devices {
		vendor, _ := os.ReadFile(d + "/vendor")
		device, _ := os.ReadFile(d + "/device")
		// virtio 1.2, 4.1.2 PCI Device Discovery: 0x1040 and the type.
		if strings.TrimSpace(string(vendor)) == "0x1af4" && strings.TrimSpace(string(device)) == "0x105a" {
			if _, err := os.Lstat(d + "/driver"); err != nil {
				return true
			}
		}
	}
	return false
}

// guestDevices lists the virtio-fs devices. tags is true if the kernel tells their
// tags.
func (h host) guestDevices() (out []GuestDevice, tags bool) {
	byDevice, used := map[string]string{}, map[string]int{}
	entries, _ := filepath.Glob(filepath.Join(h.root, "sys/fs/virtiofs/*"))
	for _, e := range entries {
		tag, err := os.ReadFile(e + "/tag")
		if err != nil {
			continue
		}
		tags = true
		// Since Linux 6.9 there is a link to the virtio device.
		name := ""
		if dev, err := filepath.EvalSymlinks(e + "/device"); err == nil {
			name = filepath.Base(dev)
		}
		byDevice[name], used[name] = strings.TrimSpace(string(tag)), h.usedQueues(e)
	}
	interrupts, iomem := h.read("proc/interrupts"), h.read("proc/iomem")
	devices, _ := filepath.Glob(filepath.Join(h.root, "sys/bus/virtio/devices/*"))
	for _, dir := range devices {
		if b, err := os.ReadFile(dir + "/device"); err != nil || strings.TrimSpace(string(b)) != fsDevice {
			continue
		}
		name := filepath.Base(dir)
		d := GuestDevice{Name: name, Tag: byDevice[name], Queues: countQueues(interrupts, name), Used: used[name], Window: window(iomem, name)}
		if link, err := os.Readlink(dir + "/driver"); err == nil && filepath.Base(link) == "virtiofs" {
			d.Bound = true
		}
		out = append(out, d)
	}
	if len(out) == 1 && out[0].Tag == "" {
		out[0].Tag, out[0].Used = byDevice[""], used[""]
	}
	return out, tags
}

// usedQueues counts the request queues of a device in /sys/fs/virtiofs that requests go
// to. The driver gives each processor one queue, and a queue without a processor stays
// empty (fs/fuse/virtio_fs.c: virtio_fs_map_queues). Linux tells this since 6.12, the
// first version that uses more than one; the result is 0 before that.
func (h host) usedQueues(device string) int {
	running := h.processors()
	used := 0
	queues, _ := filepath.Glob(device + "/mqs/*")
	for _, q := range queues {
		name, _ := os.ReadFile(q + "/name")
		if !strings.HasPrefix(string(name), "requests.") {
			continue
		}
		// The list has all possible processors. Some may not be running.
		list, _ := os.ReadFile(q + "/cpu_list")
		if slices.ContainsFunc(strings.Split(strings.TrimSpace(string(list)), ","), func(cpu string) bool {
			return running[strings.TrimSpace(cpu)]
		}) {
			used++
		}
	}
	return used
}

// processors has the number of each running processor.
func (h host) processors() map[string]bool {
	running := map[string]bool{}
	for line := range strings.Lines(h.read("proc/cpuinfo")) {
		if key, number, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "processor" {
			running[strings.TrimSpace(number)] = true
		}
	}
	return running
}

// countQueues counts a device's interrupts for request queues. They are named
// "virtio0-requests.0" when each queue has its own. A driver sets up all queues, also
// those that it never uses.
func countQueues(interrupts, device string) int {
	re := regexp.MustCompile(`\b` + regexp.QuoteMeta(device) + `-requests(\.\d+)?\b`)
	return len(re.FindAllString(interrupts, -1))
}

// window finds the device's memory (fs/fuse/virtio_fs.c: virtio_fs_setup_dax takes
// the region in the name of the device).
func window(iomem, device string) string {
	for line := range strings.Lines(iomem) {
		where, name, ok := strings.Cut(strings.TrimSpace(line), " : ")
		if ok && name == device {
			return where
		}
	}
	return ""
}

func (h host) virtiofsMounts() (out []GuestMount) {
	for line := range strings.Lines(h.read("proc/self/mounts")) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "virtiofs" {
			out = append(out, GuestMount{f[0], f[1], f[3]})
		}
	}
	return out
}

// kernelOption looks up a setting in the kernel's configuration, if the machine has the
// configuration.
func (h host) kernelOption(name, release string) option {
	config, err := os.ReadFile(filepath.Join(h.root, "boot/config-"+release))
	if err != nil {
		b, err := os.ReadFile(filepath.Join(h.root, "proc/config.gz"))
		if err != nil {
			return unknown
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return unknown
		}
		if config, err = io.ReadAll(io.LimitReader(z, 16<<20)); err != nil {
			return unknown
		}
	}
	for lines := bufio.NewScanner(bytes.NewReader(config)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+"="); ok && value != "n" {
			return on
		}
	}
	return off
}

// ExamineGuest judges a guest. tag, if not empty, is the share that is looked for.
func ExamineGuest(g *Guest, tag string) *Report {
	r := &Report{}
	r.ok("guest.kernel", "Linux %s", g.Release)
	switch {
	case g.Driver:
		r.ok("guest.driver", "virtiofs can be mounted")
	case g.Module:
		r.add(Fail, "guest.driver", "modprobe virtiofs", "the driver virtiofs is not loaded")
	default:
		r.add(Fail, "guest.driver", "install the kernel's modules, or use a kernel of Linux 5.4 or later with CONFIG_VIRTIO_FS",
			"the kernel has no virtiofs, nor a module for it")
	}
	r.guestDevices(g)
	r.tags(g, tag)
	for _, d := range g.Devices {
		r.guestQueues(g, d)
		r.dax(g, d)
	}
	for _, m := range g.Mounts {
		r.ok("guest.mount", "%s is mounted on %s (%s)", m.Tag, m.Dir, m.Options)
	}
	if g.MaxPages > 0 && g.MaxPages < 256 {
		r.add(Warn, "guest.max-pages", "sysctl -w fs.fuse.max_pages_limit=256", "fs.fuse.max_pages_limit=%d limits requests to %d KiB", g.MaxPages, g.MaxPages*4)
	}
	return r
}

func (r *Report) guestDevices(g *Guest) {
	const check = "guest.device"
	switch {
	case len(g.Devices) == 0 && g.PCI:
		r.add(Fail, check, "modprobe virtio_pci", "there is a virtio-fs device, but no driver for virtio on PCI")
	case len(g.Devices) == 0:
		r.add(Fail, check, "give the VM a vhost-user-fs device; run govirtiofs doctor --socket-path PATH on the host", "there is no virtio-fs device")
	}
	for _, d := range g.Devices {
		if d.Bound {
			r.ok(check, "%s is a virtio-fs device", d.Name)
			continue
		}
		r.add(Fail, check, "modprobe virtiofs; dmesg | grep -i virtio", "%s is a virtio-fs device without a driver", d.Name)
	}
}

// tags judges the names of shares.
func (r *Report) tags(g *Guest, want string) {
	const check = "guest.tag"
	var have []string
	for _, d := range g.Devices {
		if d.Tag != "" {
			have = append(have, d.Tag)
		}
	}
	for _, m := range g.Mounts {
		if m.Tag != "none" && !slices.Contains(have, m.Tag) {
			have = append(have, m.Tag)
		}
	}
	mounted := func(tag string) bool {
		return slices.ContainsFunc(g.Mounts, func(m GuestMount) bool { return m.Tag == tag })
	}
	switch {
	case want != "" && slices.Contains(have, want):
		r.ok(check, "the share %s is there", want)
		have = []string{want}
	case want != "" && g.Tags:
		r.add(Fail, check, "mount the name that the VMM gave it, or change the VMM's tag", "no share is called %s; there are: %s", want, strings.Join(have, " "))
	case len(have) > 0:
		r.ok(check, "shares: %s", strings.Join(have, " "))
	case len(g.Devices) > 0:
		r.add(OK, check, "mount -t virtiofs TAG DIR with the VMM's tag", "Linux before 6.9 does not show the names of shares")
	}
	for _, tag := range have {
		if !mounted(tag) {
			r.add(OK, check, fmt.Sprintf("mount -t virtiofs %s /mnt", quote(tag)), "%s is not mounted", tag)
		}
	}
}

// guestQueues judges how many of a device's request queues this kernel uses.
func (r *Report) guestQueues(g *Guest, d GuestDevice) {
	const check = "guest.queues"
	more := fmt.Sprintf("num-request-queues=%d for the device (cloud-hypervisor: num_queues)", g.CPUs)
	old := before(g.Release, 6, 12) && d.Used == 0
	switch {
	case d.Used > 1:
		r.ok(check, "%s: %d request queues are in use", d.Name, d.Used)
	case old && d.Queues > 1 && g.CPUs > 1:
		r.add(Warn, check, "use Linux 6.12 or later in the guest if it works in parallel", "%s: this kernel uses one request queue of %d", d.Name, d.Queues)
	case old && g.CPUs > 1:
		r.add(OK, check, "Linux 6.12 or later in the guest can use several; then "+more, "%s: one request queue is in use", d.Name)
	case d.Used == 1 && d.Queues > 1:
		r.ok(check, "%s: one request queue of %d is in use, by %d of the guest's processors", d.Name, d.Queues, g.CPUs)
	case (d.Used == 1 || d.Queues == 1) && g.CPUs > 1:
		r.add(Warn, check, more, "%s: one request queue for %d processors", d.Name, g.CPUs)
	case d.Used == 1 || d.Queues == 1 || old:
		r.ok(check, "%s: one request queue for one processor", d.Name)
	default:
		r.ok(check, "%s: the number of queues in use is unknown", d.Name)
	}
}

// dax judges the window, if there is one.
func (r *Report) dax(g *Guest, d GuestDevice) {
	const check = "guest.dax"
	used := slices.ContainsFunc(g.Mounts, func(m GuestMount) bool {
		return m.Tag == d.Tag && strings.Contains(m.Options, "dax")
	})
	switch {
	case g.DAX == off:
		r.ok(check, "%s: the kernel has no CONFIG_FUSE_DAX", d.Name)
	case d.Window != "" && used:
		r.ok(check, "%s: DAX is in use, window %s", d.Name, d.Window)
	case d.Window != "":
		r.add(OK, check, "mount -o dax=inode", "%s has a DAX window (%s)", d.Name, d.Window)
	case used:
		r.add(Warn, check, "use a VMM with a window; see doc/dax.md", "%s is mounted with dax but has no window", d.Name)
	case !g.Root:
		r.ok(check, "%s: run this as root to see whether it has a DAX window", d.Name)
	default:
		r.ok(check, "%s has no DAX window", d.Name)
	}
}
