// Package guest boots real guests against vhost-user-fs back-ends and runs scripts
// in them. It is the integration level of the tests: the front-end is the virtio
// code of User-Mode Linux or of QEMU, and the client is Linux.
//
// A guest needs no hardware virtualisation. test/guest/setup.sh prepares its
// parts in .cache/guests of the repository.
//
// A script finds each share on /mnt/TAG, and /tmp and /run empty and writable. It may
// leave files for the host in /run/host. $BUSYBOX is a busybox with all its commands,
// among them insmod and "reboot -f". In a UML guest the rest of the file system is
// the host's own, read-only, with all its programs; the host's /tmp, /run, /mnt and
// /dev are hidden. In a QEMU guest there are only busybox and Options.Files.
package guest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind is a sort of guest.
type Kind int

const (
	// UML is User-Mode Linux 7.2: a Linux process that is itself a vhost-user
	// front-end. One CPU, no DAX. It needs about 1.5 seconds.
	UML Kind = iota + 1
	// QEMU72 is QEMU 7.2 with Linux 6.1, both of Debian 12. No DAX, and Linux
	// uses one request queue.
	QEMU72
	// QEMU11 is QEMU 11.1 with Linux 7.2: several request queues, and DAX.
	QEMU11
	// ARM64 is QEMU 11.1 with Linux 7.2 for arm64, to run programs for arm64. It
	// needs about 5 seconds.
	ARM64
	// ARM64Pages16K is the same kernel with pages of 16 KiB. It is not a guest by
	// itself: see Options.Kernel.
	ARM64Pages16K
)

var kindNames = map[Kind]string{UML: "uml", QEMU72: "qemu72", QEMU11: "qemu11", ARM64: "arm64", ARM64Pages16K: "arm64-16k"}

// String returns the name of k, which is also its part in test/guest/setup.sh.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// ParseKind returns the kind that has this name.
func ParseKind(name string) (Kind, error) {
	for kind, n := range kindNames {
		if n == name {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("guest: no kind %q: want uml, qemu72, qemu11 or arm64", name)
}

// Share is a back-end that a guest connects to.
type Share struct {
	// Tag names the share in the guest. A UML guest asks the back-end for its tag,
	// so both must be equal.
	Tag string
	// Socket is the path of the vhost-user socket. The back-end may start to
	// listen up to ten seconds after the call of Run or Start.
	Socket string
	// Queues is the number of request queues, 0 for one. UML takes the number
	// from the back-end instead.
	Queues int
	// QueueSize is the number of descriptors in a queue, 0 for QEMU's own default
	// of 128. UML takes the largest that the back-end has.
	QueueSize int
	// NoMount is set if the script mounts the share itself.
	NoMount bool
}

// Options say how a guest is made and what it runs.
type Options struct {
	// Shares are the back-ends, each used by this guest only.
	Shares []Share
	// Script is run by the guest's /bin/sh, with nothing on its standard input.
	Script string
	// Files maps a host file to its absolute path in the guest. A QEMU guest has
	// a copy in memory; programs must be static. In a UML guest, or with
	// RootShare, the path must be below /run. No blanks in the names.
	Files map[string]string
	// HostDir, if not empty, is a host directory that gets what the script leaves
	// in /run/host. UML writes there directly; QEMU sends it over a serial port
	// when the script has ended, about 1 MB per second.
	HostDir string
	// RootShare, if not empty, is the tag of one of Shares. This share is the
	// root of the script's file system, writable, and is not mounted below /mnt.
	// It needs a shell and the directories dev, mnt, proc, run, sys and tmp.
	RootShare string
	// MountOptions are given to mount -o for every share.
	MountOptions string
	// Mem is the guest's memory in MiB, 0 for 512.
	Mem int
	// Memory, if not nil, are QEMU's options for the guest's memory, in addition to -m.
	// They replace the options for memory that the guest shares with back-ends.
	Memory []string
	// CPUs is the number of processors, 0 for 2 or the most Queues of a share,
	// whichever is more. UML has one.
	CPUs int
	// Timeout bounds the life of the guest, 0 for five minutes.
	Timeout time.Duration
	// DAX connects the shares through a device that has a shared memory window.
	// It needs QEMU11. The back-end must offer the tag itself.
	DAX bool
	// Kernel, if not 0, is another QEMU kind whose kernel this QEMU boots: QEMU11 with
	// the kernel of QEMU72 is Linux 6.1 with DAX, and ARM64 can have larger pages. See
	// Need for both.
	Kernel Kind
	// Disk gives each guest a new /dev/vda: an ext4 of 4 GiB with a small Debian. ARM64
	// only.
	Disk bool
	// Reboots lets the guest reboot, as by "$BUSYBOX reboot -f" in the script. The script
	// then runs again from its beginning. Without it a reboot ends a QEMU guest. UML
	// always can reboot; it connects again.
	Reboots bool
	// Interactive connects the console to this process's standard input and
	// output, and starts a shell after the script. Result.Output is empty then.
	Interactive bool
	// ExtraArgs are added to the command line of QEMU, or of the UML kernel.
	ExtraArgs []string
}

// Result is the outcome of a guest.
type Result struct {
	// Status is the exit status of the script.
	Status int
	// Output is what the script wrote to its standard output and error. It may contain
	// the last messages of a kernel that failed.
	Output string
	// Console is all that came from the guest's console and from the VMM.
	Console string
	// Duration is the time from the start of the VMM to its end.
	Duration time.Duration
}

var (
	// ErrTimeout is the error of a guest that had not ended in time.
	ErrTimeout = errors.New("guest: did not end in time")
	// ErrMount is the error of a guest that could not mount a share.
	ErrMount = errors.New("guest: mount failed")
	// ErrNoStatus is the error of a guest that ended before its script did: it
	// crashed, or was ended by Kill or by its context.
	ErrNoStatus = errors.New("guest: ended without a status")
)

// Run boots a guest, runs the script in it and waits for its end. With an error
// there is no status of the script; the Result has the output in any case. When
// ctx is done the guest is killed.
func Run(ctx context.Context, kind Kind, o Options) (Result, error) {
	vm, err := Start(ctx, kind, o)
	if err != nil {
		return Result{}, err
	}
	return vm.Wait()
}

// check completes o with defaults and returns an error for what kind cannot do.
func (o *Options) check(kind Kind) error {
	if _, ok := kindNames[kind]; !ok {
		return fmt.Errorf("guest: no such kind: %d", int(kind))
	}
	if o.Mem == 0 {
		o.Mem = 512
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.CPUs == 0 {
		o.CPUs = 2
		for _, s := range o.Shares {
			o.CPUs = max(o.CPUs, s.Queues)
		}
	}
	if o.DAX && kind != QEMU11 {
		return fmt.Errorf("guest: %v has no DAX", kind)
	}
	if o.Kernel == 0 {
		o.Kernel = kind
	}
	if !bootable(kind, o.Kernel) {
		return fmt.Errorf("guest: %v does not boot the kernel of %v", kind, o.Kernel)
	}
	if o.Disk && kind != ARM64 {
		return fmt.Errorf("guest: %v has no disk", kind)
	}
	return o.checkPaths(kind)
}

// bootable reports whether guests of a kind can have the kernel of another.
func bootable(kind, kernel Kind) bool {
	switch kind {
	case UML:
		return kernel == UML
	case ARM64:
		return kernel == ARM64 || kernel == ARM64Pages16K
	}
	return kernel == QEMU72 || kernel == QEMU11
}
