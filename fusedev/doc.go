// Package fusedev is the FUSE client of this machine's kernel as a transport: it
// mounts a directory with /dev/fuse, reads the kernel's requests and writes the
// replies. Serve answers them with a fuse.Handler, the same that serves
// virtqueues; others read and answer requests themselves.
//
// To start, make a fuse.Handler (server.New), mount it with New, and call Mount.Serve. govirtiofs.Server.Mount does
// all of it. Give Options a Host that sets GOMAXPROCS (host.Options.Processors): it matters for the speed.
//
// # Ownership
//
// A Mount owns its descriptor of /dev/fuse. Each goroutine of Serve owns one
// fuse.Thread and two buffers; a request that waits takes both buffers with it. With io_uring the
// kernel has the buffers until it has completed a request into them, and from the reply on.
//
// # Backing files
//
// A file system that names the file behind an open file (server.Request.Back; passthrough does it with
// Config.BackingFiles) has the kernel read, write and map that file without a request, on Linux 6.9 and
// for a process with CAP_SYS_ADMIN. Such reads cost what they cost on the file itself. An OPEN costs
// one system call more, and so does the last RELEASE.
//
// # io_uring
//
// With Options.IOUring requests come by io_uring where the kernel can do that (Linux 6.14, with the
// parameter fuse.enable_uring). A thread stays on each processor and serves the programs there, with
// one system call a request instead of two. doc/performance-notes.md says what it gains.
//
// # Death of the server
//
// With Options.Ledger another process can continue when this one dies, if somebody has kept the descriptor
// (Mount.File) and the ledger: Adopt and Mount.Recover. The kernel sends it again what had no reply (Linux 6.9), and
// the mount lives on. examples/recoverfs is a program with both sides.
//
// # End of a mount
//
// When the file system is unmounted (Mount.Unmount, umount(8), or the kernel's abort
// through /sys/fs/fuse/connections), reads of /dev/fuse fail with ENODEV and every
// goroutine of Serve ends. A copy in another mount namespace (a container's) keeps the file system alive after an
// unmount, and open files do after Detach: Mount.End ends these, too. When the process ends first, every access to the mount
// fails with ENOTCONN until the directory is unmounted.
//
// A process must not touch the files of a mount that it serves itself: the Go runtime
// can't stop a thread that sleeps in the kernel for an answer of its own process while
// it handles a page fault.
//
// Sources: fs/fuse/dev.c, fs/fuse/inode.c of Linux; libfuse's fusermount3 for mounts
// without root.
package fusedev
