package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// quietArgs make a kernel quiet and quick under emulation. A panic ends the guest.
const quietArgs = "quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on "

// machine has the differences between the architectures of QEMU guests.
type machine struct {
	program    string
	args       []string // in addition to those of all guests
	kernelArgs string
	// ports are the guest's names of the serial ports for the status and for results.
	ports string
	// port returns the options of such a port, which is written to a file.
	port func(number int, file string) []string
}

var pc = &machine{
	program:    "qemu-system-x86_64",
	args:       []string{"-M", "pc", "-cpu", "max"},
	kernelArgs: quietArgs + "console=ttyS0 reboot=t no_timer_check tsc=reliable",
	ports:      "ttyS1 ttyS2",
	port:       func(_ int, file string) []string { return []string{"-serial", "file:" + file} },
}

// virt is a machine for arm64. It has one serial port of its own that Linux knows by
// itself, for the console. The processor is one that needs no emulation of signed pointers.
var virt = &machine{
	program:    "qemu-system-aarch64",
	args:       []string{"-M", "virt,gic-version=3", "-cpu", "neoverse-n1"},
	kernelArgs: quietArgs + "console=ttyAMA0",
	ports:      "ttyS0 ttyS1",
	port: func(number int, file string) []string {
		return []string{
			"-chardev", fmt.Sprintf("file,id=port%d,path=%s", number, file),
			"-device", fmt.Sprintf("pci-serial,chardev=port%d", number),
		}
	},
}

// prepareQEMU writes the files of a QEMU guest below dir and returns the command
// that runs it.
func prepareQEMU(dir string, kind Kind, o *Options) (*command, error) {
	m := pc
	if kind == ARM64 {
		m = virt
	}
	program, err := partFile(kind.String(), "tree/usr/bin/"+m.program)
	if err != nil {
		return nil, err
	}
	kernel, err := partFile(o.Kernel.String(), "vmlinux")
	if err != nil {
		return nil, err
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(initramfs, filepath.Dir(kernel), m, o); err != nil {
		return nil, err
	}
	c := &command{
		path:   program,
		status: filepath.Join(dir, "status"),
		env:    []string{"QEMU_MODULE_DIR=" + filepath.Join(filepath.Dir(program), "../lib/x86_64-linux-gnu/qemu")},
	}
	if o.HostDir != "" {
		c.archive = filepath.Join(dir, "results.tar")
		c.hostDir = o.HostDir
	}
	if c.args, err = qemuArgs(c, m, kernel, initramfs, o); err != nil {
		return nil, err
	}
	return c, nil
}

// qemuArgs returns QEMU's command line.
func qemuArgs(c *command, m *machine, kernel, initramfs string, o *Options) ([]string, error) {
	data := filepath.Join(filepath.Dir(c.path), "../share")
	mem := strconv.Itoa(o.Mem)
	args := []string{
		"-L", filepath.Join(data, "seabios"), "-L", filepath.Join(data, "qemu"),
		"-accel", "tcg,thread=multi",
		"-smp", strconv.Itoa(o.CPUs), "-m", mem,
		"-nodefaults", "-no-user-config", "-display", "none",
		// The interrupt character goes to the guest and not to QEMU.
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", kernel, "-initrd", initramfs, "-append", m.kernelArgs,
	}
	memory := o.Memory
	if memory == nil {
		// A back-end can only map memory that has a file descriptor.
		memory = []string{"-object", "memory-backend-memfd,id=mem,share=on,size=" + mem + "M", "-numa", "node,memdev=mem"}
	}
	args = append(args, memory...)
	args = append(args, m.args...)
	args = append(args, m.port(0, c.status)...)
	if c.archive != "" {
		args = append(args, m.port(1, c.archive)...)
	}
	if o.Disk {
		disk, err := partFile(ARM64.String(), "disk")
		if err != nil {
			return nil, err
		}
		// Writes go to a file without a name.
		args = append(args, "-drive", "file="+disk+",format=raw,if=none,id=disk,snapshot=on,cache=unsafe",
			"-device", "virtio-blk-pci,drive=disk")
	}
	if !o.Reboots {
		args = append(args, "-no-reboot")
	}
	for i, s := range o.Shares {
		args = append(args, shareArgs(i, s, o.DAX)...)
	}
	return append(args, o.ExtraArgs...), nil
}

// shareArgs returns the device of share number i. QEMU's own virtio-fs device has no
// shared memory window. So DAX uses the generic device, which asks the back-end for
// the configuration (40 bytes: a tag of 36 and the number of request queues).
func shareArgs(i int, s Share, dax bool) []string {
	queues := max(s.Queues, 1)
	var device string
	if dax {
		size := s.QueueSize
		if size == 0 {
			size = 128
		}
		device = fmt.Sprintf("vhost-user-test-device-pci,chardev=share%d,virtio-id=26,num_vqs=%d,vq_size=%d,config_size=40",
			i, queues+1, size)
	} else {
		device = fmt.Sprintf("vhost-user-fs-pci,chardev=share%d,tag=%s,num-request-queues=%d", i, s.Tag, queues)
		if s.QueueSize != 0 {
			device += fmt.Sprintf(",queue-size=%d", s.QueueSize)
		}
	}
	return []string{"-chardev", fmt.Sprintf("socket,id=share%d,path=%s", i, s.Socket), "-device", device}
}

// writeInitramfs writes the guest's first file system: busybox and modules from the
// directory part, init.sh, the script and the caller's files.
func writeInitramfs(path, part string, m *machine, o *Options) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	vars := initVars{
		kind:        "qemu",
		interpreter: "/bin/busybox sh",
		busybox:     "/bin/busybox",
		modules:     "/modules",
		hostdir:     o.HostDir,
		ports:       m.ports,
	}
	a := newArchive(f)
	if o.Script != "" {
		vars.script = "/run/script"
		a.data(vars.script, 0o644, []byte(o.Script))
	}
	a.data("/init", 0o755, []byte(initScript(vars, o)))
	a.file("/bin/busybox", filepath.Join(part, "busybox"))
	modules, err := filepath.Glob(filepath.Join(part, "modules", "*.ko"))
	if err != nil {
		return err
	}
	for _, m := range modules {
		a.file(filepath.Join("/modules", filepath.Base(m)), m)
	}
	for from, to := range o.Files {
		a.file(to, from)
	}
	for _, dir := range []string{"/dev", "/mnt", "/proc", "/sys"} {
		a.directory(dir)
	}
	return a.close()
}
