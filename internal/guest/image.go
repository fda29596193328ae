package guest

import (
	"path/filepath"
)

// Image is a guest for a program that starts QEMU itself, such as libvirt.
type Image struct {
	Kernel    string // ELF
	Initramfs string
	Args      string // of the kernel
}

// NewImage writes an initramfs below dir for a kind of QEMU. Of the options, Shares
// (their tags), Script, Files and MountOptions count. The guest's first serial port is
// its console; the second one gets what Status reads.
func NewImage(dir string, kind Kind, o Options) (Image, error) {
	kernel, err := partFile(kind.String(), "vmlinux")
	if err != nil {
		return Image{}, err
	}
	image := Image{Kernel: kernel, Initramfs: filepath.Join(dir, "initramfs"), Args: pc.kernelArgs}
	return image, writeInitramfs(image.Initramfs, filepath.Dir(kernel), pc, &o)
}

// Status reads the file that a guest's second serial port was written to: the status
// of the script, or ErrMount or, until there is one, ErrNoStatus.
func Status(path string) (int, error) { return readStatus(path) }
