// Package program starts an unmodified FUSE program and takes the kernel's place for it: when the program
// mounts its file system, nothing is mounted. The program gets one end of a socket as its /dev/fuse, and
// the caller the other one, for package relay.
//
// # How
//
// Mount starts two small processes of the caller's own executable, so the caller's main has to begin with RunChild. The
// first one ("init") stays: it is the parent of all that the program leaves behind, the first process of a pid
// namespace where there can be one, and ends the program's processes. The second one installs a seccomp filter and
// becomes the program. The filter has three kinds of answers:
//
//   - mount(2) and umount2(2) are passed on to the caller's process (seccomp_unotify(2)). It reads what is to be
//     mounted. For a type of FUSE it puts the socket in place of the program's /dev/fuse, at the number in
//     "fd=N", and lets mount return 0. Filters are inherited, so this works for fusermount as well.
//   - vmsplice(2) does not exist, and pipes can't be made larger: a reply that is spliced into a socket would arrive in
//     parts. FUSE libraries then write their replies instead.
//   - The other ways to mount, new user namespaces, and some calls that no FUSE program needs are refused.
//
// It needs Linux 5.9. A program that takes "/dev/fd/N" as mount point inherits its descriptor instead; see Options.Args.
//
// # What the program can do
//
// It has namespaces of its own for mounts, processes and IPC, where the system allows that (also for users other
// than root, by a user namespace), no_new_privs, and no capabilities except those in Options.Capabilities. It sees the
// same files and network as its user does: most FUSE programs serve files or servers.
//
// # Life
//
// Mounted.Done is closed, and Wait returns, when no process of the program is left. Close, the end of the caller's
// process, and the next Mount end all of them. A program whose socket is closed has Options.Grace to end by itself, as after
// an unmount. Then, or if the socket is open, there is SIGTERM, and SIGKILL in the end.
package program
