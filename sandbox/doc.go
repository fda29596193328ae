// Package sandbox limits what the daemon's process may see and do. If a guest takes over the
// daemon, it finds only the share.
//
// Each file has one mechanism. Each mechanism works without the others:
//
//	namespace.go   mount, process and network namespaces, root is the share
//	idmap.go       user namespaces for callers without privileges
//	chroot.go      root is the share, if namespaces are not allowed
//	view.go        no change of root; what all three hand to the file system
//	caps.go        capabilities, no_new_privs and groups of every thread
//	landlock.go    files of every thread, also visible ones
//	seccomp*.go    system calls of every thread
//	rlimit.go      the number of open files
//	calls.go       which of these system calls the filter of another program forbids
//
// The order in a process that is about to serve is: ProbeCalls, SetNoFile, one of
// Namespace.Enter, Chroot and Open, then everything that needs privileges or
// files by name, then DropGroups, SetCapabilities, Landlock and Filter. None of these can be
// undone.
//
// A Go process always has several threads, and a single thread can't change its mount
// namespace. So Namespace starts the program once more in new namespaces (Start), and the new
// process makes the share its root (Enter). All other mechanisms work on all threads of the
// running process.
package sandbox
