package doctor

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// keeps returns the capabilities that the daemon keeps. A malformed list changes nothing.
func keeps(p *share.Config) []cap.Value {
	if keep, err := sandbox.ModifyCapabilities(sandbox.DefaultCapabilities(), p.ModCaps); err == nil {
		return keep
	}
	return sandbox.DefaultCapabilities()
}

// trusted judges rules that keep attributes of the guest under names in trusted.*.
func (r *Report) trusted(p *share.Config, f *Facts) {
	const check = "share.trusted"
	const others = "use names in user.*, such as those of --xattrmap-preset=selinux-user"
	if !p.Names.Uses("trusted.") {
		return
	}
	switch {
	case f.Process.UID != 0 || !slices.Contains(f.Process.Capabilities, cap.SYS_ADMIN):
		r.add(Fail, check, "start the daemon as root with CAP_SYS_ADMIN and --modcaps=+sys_admin, or "+others,
			"the rules keep the guest's attributes in trusted.*, which only CAP_SYS_ADMIN can use")
	case !slices.Contains(keeps(p), cap.SYS_ADMIN):
		r.add(Fail, check, "give the daemon --modcaps=+sys_admin, or "+others,
			"the rules keep the guest's attributes in trusted.*, and the daemon does not keep CAP_SYS_ADMIN")
	case errors.Is(f.Share.TrustedXattr, errUntried):
		r.ok(check, "attributes in trusted.*: not tried")
	case f.Share.TrustedXattr != nil:
		r.add(Fail, check, "share a file system that has them (ext4, xfs, btrfs), or "+others,
			"the rules keep the guest's attributes in trusted.*, which can't be set here: %v", f.Share.TrustedXattr)
	default:
		r.ok(check, "attributes in trusted.* work")
	}
}

// locks reports the consequences of the option for locks.
func (r *Report) locks(p *share.Config) {
	const check = "share.locks"
	if p.Locks != share.LocksHost {
		r.add(OK, check, "give the daemons --locks=host if programs of several guests or of the host lock the same files",
			"locks stay in the guest: other guests and the host do not see them")
		return
	}
	r.add(Warn, check, "leave out --locks=host if only one guest writes to the share; programs with a timeout (flock -w) need that",
		"locks are taken on the host: in a virtio-fs guest, a program that waits for one can't be interrupted or killed")
}

// hostDAX judges what the host lacks for a DAX window. The share works without a window, so
// none of this is a failure.
func (r *Report) hostDAX(p *share.Config, f *Facts) {
	const check = "dax"
	const lost = "QEMU maps only files whose size is a multiple of 2 MiB"
	switch {
	case p.ReadOnly:
		r.add(Warn, check, "leave out --readonly, and mount -o ro in the guest if that is enough",
			"QEMU maps files for writing: with --readonly it maps none")
	case before(f.Kernel.Release, 6, 9):
		r.add(Warn, check, "use Linux 6.9 or later on the host, which has FUSE passthrough", "Linux %s: %s", f.Kernel.Release, lost)
	case f.Process.UID != 0 || !slices.Contains(f.Process.Capabilities, cap.SYS_ADMIN):
		r.add(Warn, check, "start the daemon as root with CAP_SYS_ADMIN", "without root %s", lost)
	default:
		r.ok(check, "files of any size can be mapped, if the kernel has FUSE passthrough (CONFIG_FUSE_PASSTHROUGH)")
	}
	if f.Share != nil && f.Share.Flags&unix.ST_RDONLY != 0 && !p.ReadOnly {
		r.add(Warn, check, "mount -o remount,rw it on the host", "QEMU maps files for writing: on a mount that is read-only it maps none")
	}
}

// window judges whether a device has a window.
func (r *Report) window(v *VMM, d *FSDevice) {
	const check = "vmm.dax"
	const generic = "with QEMU 11.1 -device vhost-user-test-device-pci,chardev=ID,virtio-id=26,num_vqs=2,vq_size=128,config_size=40, and give the daemon --tag (doc/dax.md)"
	switch {
	case v.Name == "crosvm": // its command line does not tell
	case v.Name != "qemu":
		r.add(Warn, check, "use "+generic, "%s: no window with %s: files are read and written as usual", d.name(), v.Name)
	case d.Generic:
		r.ok(check, "%s: this device has a window with QEMU 11.1 or later", d.name())
	default:
		r.add(Warn, check, "replace it: "+generic, "%s: vhost-user-fs has no window: files are read and written as usual", d.name())
	}
}
