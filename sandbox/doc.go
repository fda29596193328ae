// Package sandbox limits what the daemon's process may see and do, so that code
// which a guest has taken over finds the share and nothing else.
//
// There is one mechanism a file, each of which holds without the others:
//
//	namespace.go   mount, process and network namespaces, root is the share
//	idmap.go       user namespaces for callers without privileges
//	chroot.go      root is the share, for when namespaces can't be had
//	view.go        no change of root; what all three hand to the file system
//	caps.go        capabilities, no_new_privs and groups of every thread
//	landlock.go    files of every thread, whatever can be seen
//	seccomp*.go    system calls of every thread
//	rlimit.go      the number of open files
//	calls.go       which of these system calls a filter of somebody else's forbids
//
// The order in a process that is about to serve is: ProbeCalls, SetNoFile, one of
// Namespace.Enter, Chroot and Open, then everything that needs privileges or
// files by name, then DropGroups, SetCapabilities, Landlock and Filter. Nothing
// here can be undone.
//
// A Go process always has several threads, and a mount namespace can't be left by
// one of them. So Namespace starts the program once more in new namespaces
// (Start), and the new process makes the share its root (Enter). All other
// mechanisms work on the running process, on all of its threads at once.
package sandbox
