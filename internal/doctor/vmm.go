package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// VMM is a running virtual machine as far as its share is concerned.
type VMM struct {
	PID       int
	Name      string // qemu, cloud-hypervisor, crosvm or uml; "" if none of these
	UID       int
	Groups    []int
	AppArmor  string // the profile that confines it, if one does
	LockLimit uint64 // of locked memory, in bytes
	Err       error  // of reading its command line

	Shared  bool   // the daemon can map the guest's memory
	Memory  string // as its command line says, "" if it does not
	Backend string // QEMU's kind of memory backend, "" without one
	Locks   bool   // it locks its memory
	CPUs    int    // 0 if unknown
	Devices []FSDevice
}

// FSDevice is a virtio-fs device of a VMM. Numbers are 0 when the command line
// leaves them to the VMM's default.
type FSDevice struct {
	Tag, Socket       string
	Queues, QueueSize int
	Generic           bool // QEMU's device for all kinds, which has shared memory regions
}

// vmms examines the processes of pids, those that are connected to the socket, and
// those that have it on their command line.
func (h host) vmms(socket string, s *Socket, pids []int) []VMM {
	wanted := slices.Clone(pids)
	pids = slices.Clone(pids)
	var owners []int
	if s != nil {
		pids = append(pids, s.Front...)
		owners = s.Owners
	}
	if socket != "" {
		pids = append(pids, h.mentions(socket)...)
	}
	slices.Sort(pids)
	var out []VMM
	for _, pid := range slices.Compact(pids) {
		v := h.vmm(pid)
		// A process that the user did not name may end before it is examined.
		known := v.Name != "" || v.Err != nil && !v.gone()
		if slices.Contains(wanted, pid) || known && !slices.Contains(owners, pid) {
			out = append(out, v)
		}
	}
	return out
}

// mentions finds the VMMs with the socket on their command lines.
func (h host) mentions(socket string) (out []int) {
	ours := resolve(socket, "")
	files, _ := filepath.Glob(filepath.Join(h.root, "proc/[0-9]*/cmdline"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		// Most processes don't even have the name on their command line.
		if err != nil || !strings.Contains(string(b), filepath.Base(socket)) {
			continue
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if vmmName(args) == "" {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(filepath.Dir(f), "cwd"))
		uses := slices.ContainsFunc(socketPaths(args), func(path string) bool {
			// The directory must be known to resolve a relative path.
			return (cwd != "" || filepath.IsAbs(path)) && resolve(path, cwd) == ours
		})
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && uses {
			out = append(out, pid)
		}
	}
	return out
}

// resolve makes a socket's path comparable: absolute, as seen from dir ("" is this
// process's directory), without symbolic links on the way to the file. The file
// itself need not exist, and a link there is not followed, because daemons rename a
// new socket over it.
func resolve(path, dir string) string {
	if !filepath.IsAbs(path) && dir != "" {
		path = filepath.Join(dir, path)
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	parent, base := filepath.Split(path)
	if real, err := filepath.EvalSymlinks(parent); err == nil {
		parent = real
	}
	return filepath.Join(parent, base)
}

// vmm reads what /proc says about a process.
func (h host) vmm(pid int) VMM {
	v := VMM{PID: pid}
	dir := fmt.Sprintf("proc/%d/", pid)
	b, err := os.ReadFile(filepath.Join(h.root, dir, "cmdline"))
	if err != nil {
		v.Err = err
		// /proc may be mounted so that other users' processes are hidden
		// (hidepid).
		if v.gone() && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.EPERM) {
			v.Err = unix.EPERM
		}
		return v
	}
	for line := range strings.Lines(h.read(dir + "status")) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[0] == "Uid:":
			v.UID, _ = strconv.Atoi(f[2]) // effective
		case len(f) > 2 && (f[0] == "Gid:"):
			if gid, err := strconv.Atoi(f[2]); err == nil {
				v.Groups = append(v.Groups, gid)
			}
		case len(f) > 1 && f[0] == "Groups:":
			for _, g := range f[1:] {
				if gid, err := strconv.Atoi(g); err == nil {
					v.Groups = append(v.Groups, gid)
				}
			}
		}
	}
	if profile := h.read(dir + "attr/current"); strings.HasSuffix(profile, "(enforce)") {
		v.AppArmor = strings.TrimSuffix(profile, " (enforce)")
	}
	v.LockLimit = lockLimit(h.read(dir + "limits"))
	v.parse(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"))
	return v
}

// gone reports whether there is no such process.
func (v *VMM) gone() bool { return errors.Is(v.Err, os.ErrNotExist) || errors.Is(v.Err, unix.ESRCH) }

// lockLimit reads the soft limit of locked memory in /proc/PID/limits.
func lockLimit(limits string) uint64 {
	for line := range strings.Lines(limits) {
		rest, ok := strings.CutPrefix(line, "Max locked memory")
		if f := strings.Fields(rest); ok && len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				return n
			}
		}
	}
	return ^uint64(0)
}

// parse reads a command line.
func (v *VMM) parse(args []string) {
	v.Name = vmmName(args)
	switch v.Name {
	case "qemu":
		v.parseQEMU(args[1:])
	case "cloud-hypervisor":
		v.parseCloudHypervisor(args[1:])
	case "crosvm", "uml": // their memory is always shared
		v.Shared = true
		v.parseTagged(args[1:])
	}
}

// vmmName recognizes VMMs by the names of their programs.
func vmmName(args []string) string {
	if len(args) == 0 {
		return ""
	}
	base := filepath.Base(args[0])
	switch {
	case strings.HasPrefix(base, "qemu-system-"), base == "qemu-kvm", base == "kvm":
		return "qemu"
	case strings.HasPrefix(base, "cloud-hypervisor"):
		return "cloud-hypervisor"
	case base == "crosvm":
		return "crosvm"
	case slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, umlDevice) }):
		return "uml"
	}
	return ""
}

// defaultQueueSize is the queue size of a VMM that is not told one.
func (v *VMM) defaultQueueSize() int {
	if v.Name == "qemu" {
		return 128
	}
	return 1024
}

// vmm judges a VMM.
func (r *Report) vmm(p *share.Config, v *VMM) {
	if v.gone() {
		r.add(Fail, "vmm", "pgrep -af 'qemu|kvm|cloud-hypervisor|crosvm|virtio_uml' shows the VMMs that run", "there is no process %d", v.PID)
		return
	}
	if v.Err != nil {
		r.add(Warn, "vmm", "run this as root", "process %d can't be checked: %v", v.PID, v.Err)
		return
	}
	if v.Name == "" {
		r.add(Warn, "vmm", "give --pid the process of the VMM itself, not of a wrapper such as sudo or timeout", "process %d is no VMM that this program knows", v.PID)
		return
	}
	r.ok("vmm", "process %d is %s, of user %d", v.PID, v.Name, v.UID)
	r.memory(v)
	if v.AppArmor != "" && v.AppArmor != "unconfined" {
		r.add(Warn, "vmm.apparmor", "journalctl -k --grep apparmor.*DENIED; for libvirt add a line with the socket's path and rw to /etc/apparmor.d/local/abstractions/libvirt-qemu",
			"AppArmor confines it (%s): sockets at unusual paths may be refused", v.AppArmor)
	}
	if v.Locks && v.LockLimit != ^uint64(0) {
		r.add(Warn, "vmm.memlock", "ulimit -l unlimited, or LimitMEMLOCK=infinity in a systemd unit",
			"it locks its memory, but may lock %d bytes only", v.LockLimit)
	}
	if len(v.Devices) == 0 {
		r.add(Fail, "vmm.device", deviceRemedy(v), "it has no virtio-fs device on its command line (a device that was plugged in later is not shown there)")
		return
	}
	for i := range v.Devices {
		r.device(v, &v.Devices[i])
		if p.HasWindow() {
			r.window(v, &v.Devices[i])
		}
	}
}

func deviceRemedy(v *VMM) string {
	switch v.Name {
	case "cloud-hypervisor":
		return "add --fs tag=NAME,socket=PATH,num_queues=1,queue_size=1024"
	case "qemu":
		return "add -chardev socket,id=fs,path=PATH -device vhost-user-fs-pci,chardev=fs,tag=NAME,queue-size=1024"
	}
	return ""
}

func (r *Report) memory(v *VMM) {
	const check = "vmm.memory"
	if v.Shared {
		r.ok(check, "the guest's memory is shared")
		return
	}
	size := v.Memory
	if size == "" {
		size = "SIZE"
	}
	if _, err := strconv.Atoi(size); err == nil {
		size += "M" // -m counts MiB, -object bytes
	}
	remedy := fmt.Sprintf("add -object memory-backend-memfd,id=mem,size=%s,share=on -numa node,memdev=mem (libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>)", size)
	why := "it has no memory backend that others can map"
	switch {
	case v.Name == "cloud-hypervisor":
		remedy, why = fmt.Sprintf("use --memory size=%s,shared=on", size), "--memory is without shared=on"
	case v.Backend != "":
		remedy = fmt.Sprintf("add share=on to its -object %s", v.Backend)
		why = v.Backend + " is without share=on"
	}
	r.add(Fail, check, remedy, "the guest's memory is not shared with the daemon: %s", why)
}

// name is what the user knows the device by.
func (d *FSDevice) name() string {
	if d.Tag != "" {
		return d.Tag
	}
	return d.Socket
}

// device judges a virtio-fs device's queues.
func (r *Report) device(v *VMM, d *FSDevice) {
	name, size := d.name(), d.QueueSize
	if size == 0 {
		size = v.defaultQueueSize()
	}
	// Linux gives each page a descriptor and keeps 4 for headers
	// (fs/fuse/virtio_fs.c: FUSE_HEADER_OVERHEAD); it asks for 256 pages at most.
	if size < 260 && (v.Name == "qemu" || v.Name == "cloud-hypervisor") {
		option := map[string]string{"qemu": "queue-size=1024", "cloud-hypervisor": "queue_size=1024"}[v.Name]
		r.add(Warn, "vmm.queue-size", "give the device "+option,
			"%s: queues of %d entries limit a request to %d KiB; 1 MiB is possible", name, size, max(size-4, 1)*4)
	} else {
		r.ok("vmm.queue-size", "%s: queues are long enough for requests of 1 MiB", name)
	}
	queues := max(d.Queues, 1)
	switch {
	case queues == 1 && v.CPUs > 1:
		option := "num-request-queues"
		if v.Name == "cloud-hypervisor" {
			option = "num_queues"
		}
		r.add(OK, "vmm.queues", fmt.Sprintf("%s=%d makes parallel work faster in a guest with Linux 6.12 or later", option, v.CPUs),
			"%s: one request queue for %d processors", name, v.CPUs)
	case queues > 1:
		r.ok("vmm.queues", "%s: %d request queues; Linux before 6.12 uses only the first (run govirtiofs doctor --guest there)", name, queues)
	default:
		r.ok("vmm.queues", "%s: one request queue", name)
	}
}
