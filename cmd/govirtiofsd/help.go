package main

import (
	"fmt"
	"io"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

const usageLine = `Usage: govirtiofsd --shared-dir DIR
         (--socket-path PATH | --fd N | --vsock PORT | --vsock-uds PATH) [options]`

// shortUsage is what a start without options prints.
const shortUsage = usageLine + `

govirtiofsd shares a directory of the host with a virtual machine. For example:

  govirtiofsd --shared-dir /srv/data --socket-path /run/data.sock
  qemu-system-x86_64 ... -m 4G \
    -object memory-backend-memfd,id=mem,size=4G,share=on -numa node,memdev=mem \
    -chardev socket,id=fs,path=/run/data.sock \
    -device vhost-user-fs-pci,chardev=fs,tag=data

and in the guest: mount -t virtiofs data /mnt. All options: govirtiofsd --help.
`

// printHelp writes the options by group.
func printHelp(w io.Writer) {
	fmt.Fprintf(w, `govirtiofsd shares a directory of the host with a virtual machine (virtio-fs).

%s

It waits for a VMM (QEMU, cloud-hypervisor, crosvm, User-Mode Linux) to connect to
a vhost-user socket and ends when the VMM does. The VMM must give the guest shared
memory: with QEMU, -object memory-backend-memfd,share=on.

Options are those of virtiofsd and mean the same. When one is repeated, the last
one counts. Errors in options exit with 2, failures to start with 1.
`, usageLine)
	share.WriteHelp(w)
	fmt.Fprint(w, "\nMore is in govirtiofsd(1).\n")
}
