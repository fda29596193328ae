package main

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/sandbox"
)

// hints says what to do about an error.
func hints(err error) []string {
	var out []string
	if errors.Is(err, sandbox.ErrNotPermitted) {
		out = append(out, "This sandbox can't be made here, for example inside a container or without user namespaces. "+
			"If something else confines the daemon, choose --sandbox=chroot (as root) or --sandbox=none.")
	}
	if errors.Is(err, sandbox.ErrNotPermitted) && errors.Is(err, unix.EACCES) {
		out = append(out, "It may also be that this user can't enter the shared directory: it takes the right to search (x) in it and in those above.")
	}
	if errors.Is(err, sandbox.ErrIDMap) {
		out = append(out, "Ids other than one's own are mapped by newuidmap and newgidmap, of the package uidmap; "+
			"/etc/subuid and /etc/subgid say which ones a user may have. --ownership=xattr needs neither.")
		out = append(out, idMapHints()...)
	}
	if errors.Is(err, sandbox.ErrRootIDMap) {
		out = append(out, "Root gives other owners to the guest's files by --translate-uid and --translate-gid, in every sandbox. "+
			"To have a user namespace, start the daemon as the user who is to be the guest's root.")
	}
	if errors.Is(err, unix.EADDRINUSE) {
		out = append(out, "Another process has made this socket in the meantime.")
	}
	if errors.Is(err, unix.EINVAL) && !errors.Is(err, sandbox.ErrNotPermitted) {
		out = append(out, "A socket's path has at most 107 bytes; a relative path may be shorter.")
	}
	return out
}
