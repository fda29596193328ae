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

// NewImage writes an initramfs below dir for a kind of QEMU. It uses only these
// options: Shares (their tags), Script, Files and MountOptions. The guest's first
// serial port is its console. The output of the second one is what Status reads.
func NewImage(dir string, kind Kind, o Options) (Image, error) {
	kernel, err := partFile(kind.String(), "vmlinux")
	if err != nil {
		return Image{}, err
	}
	image := Image{Kernel: kernel, Initramfs: filepath.Join(dir, "initramfs"), Args: pc.kernelArgs}
	return image, writeInitramfs(image.Initramfs, filepath.Dir(kernel), pc, &o)
}

// Status reads the file that has the output of a guest's second serial port. It
// returns the status of the script or ErrMount. Until there is a status, it returns
// ErrNoStatus.
func Status(path string) (int, error) { return readStatus(path) }
