package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/upgrade"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// ownVersions is what another version of this program has to know before it starts workers that
// run it.
func ownVersions() upgrade.Versions {
	return upgrade.Versions{Program: versionLine("govirtiofsd"), Ledger: ledger.Version, Reads: ledger.OldestVersion, Keeper: keeper.Protocol}
}

// firstUpgradeFD is the least number of an upgrade's descriptor. A new process finds its program by this
// number after it has put those that it inherits at 3 and up.
const firstUpgradeFD = 100

// checkUpgrade checks whether the program at path can take over. It keeps the file open: the
// file that was checked is the one that is started later, even if the path is replaced.
func checkUpgrade(path string) (*keeper.Program, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstUpgradeFD)
	_ = unix.Close(fd)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(high), path)
	v, err := upgrade.Ask(procPath(f))
	if err == nil {
		err = v.Fits(ownVersions())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &keeper.Program{File: f, Version: v.Program}, nil
}

// procPath is a path at which a child of this process finds a file that it has inherited.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// ownPath is where this program was when it was started, and where a package manager puts the next
// version.
func ownPath() (string, error) {
	path, err := os.Readlink("/proc/self/exe")
	return strings.TrimSuffix(path, " (deleted)"), err
}
