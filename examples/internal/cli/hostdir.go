package cli

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// HostDir is a directory of this machine as a file system, to be decorated. The process has no
// umask from then on: the client's is in the modes that it sends. cache says how long the client keeps
// what it has seen.
func HostDir(dir string, cache passthrough.CachePolicy) (server.FileSystem, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.New(dir + ": " + err.Error())
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(errors.New("/proc/self/fd: "+err.Error()), unix.Close(root))
	}
	unix.Umask(0)
	return passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc, Xattr: true, KillprivV2: true, Cache: cache})
}
