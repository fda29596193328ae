package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// kernelArgs make the kernel quiet and quick under emulation. A panic ends the guest.
const kernelArgs = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr " +
	"random.trust_cpu=on no_timer_check tsc=reliable"

// prepareQEMU writes the files of a QEMU guest below dir and returns the command
// that runs it.
func prepareQEMU(dir string, kind Kind, o *Options) (*command, error) {
	program, err := partFile(kind.String(), "tree/usr/bin/qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	kernel, err := partFile(o.Kernel.String(), "vmlinux")
	if err != nil {
		return nil, err
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(initramfs, filepath.Dir(kernel), o); err != nil {
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
	c.args = qemuArgs(c, kernel, initramfs, o)
	return c, nil
}

// qemuArgs returns QEMU's command line.
func qemuArgs(c *command, kernel, initramfs string, o *Options) []string {
	data := filepath.Join(filepath.Dir(c.path), "../share")
	mem := strconv.Itoa(o.Mem)
	args := []string{
		"-L", filepath.Join(data, "seabios"), "-L", filepath.Join(data, "qemu"),
		"-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", strconv.Itoa(o.CPUs), "-m", mem,
		// Only memory that can be shared by a file descriptor reaches a back-end.
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + mem + "M", "-numa", "node,memdev=mem",
		"-nodefaults", "-no-user-config", "-display", "none",
		// An interrupt character goes to the guest rather than to QEMU.
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-serial", "file:" + c.status,
		"-kernel", kernel, "-initrd", initramfs, "-append", kernelArgs,
	}
	if c.archive != "" {
		args = append(args, "-serial", "file:"+c.archive)
	}
	if !o.Reboots {
		args = append(args, "-no-reboot")
	}
	for i, s := range o.Shares {
		args = append(args, shareArgs(i, s, o.DAX)...)
	}
	return append(args, o.ExtraArgs...)
}

// shareArgs returns the device of share number i. QEMU's own virtio-fs device has no
// shared memory window, so DAX takes the generic device, which asks the back-end for
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
func writeInitramfs(path, part string, o *Options) (err error) {
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
