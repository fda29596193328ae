package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

const usageLine = "Usage: govirtiofsd --shared-dir DIR (--socket-path PATH | --fd N) [options]"

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

// helpWidth is the length of the longest line, helpIndent where explanations start.
const (
	helpWidth  = 80
	helpIndent = 12
)

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
	for _, g := range new(options).groups() {
		fmt.Fprintf(w, "\n%s:\n", g.title)
		g.flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				printOption(w, f)
			}
		})
	}
	fmt.Fprint(w, "\nMore is in govirtiofsd(1).\n")
}

// printOption writes an option and its explanation, which starts with the name of
// the value in back quotes if there is one.
func printOption(w io.Writer, f *pflag.Flag) {
	value, text := "", f.Usage
	if rest, ok := strings.CutPrefix(text, "`"); ok {
		value, text, _ = strings.Cut(rest, "` ")
	}
	name := "    --" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", --" + f.Name
	}
	switch {
	case value != "" && f.NoOptDefVal != "":
		name += "[=" + value + "]"
	case value != "":
		name += " " + value
	}
	fmt.Fprintf(w, "  %s\n", name)
	for _, line := range wrap(text, helpWidth-helpIndent) {
		fmt.Fprintf(w, "%*s%s\n", helpIndent, "", line)
	}
}

// wrap breaks text into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
