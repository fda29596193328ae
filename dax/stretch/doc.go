// Package stretch makes files look longer than they are, for VMMs that map no more of a
// file than it has.
//
// QEMU checks the size of a file before it maps it into a guest's DAX window, and
// refuses a range that ends behind the end. Guests ask for whole ranges of 2 MiB, so the
// last range of most files would be refused. mmap itself has no such limit: a page is
// there as soon as the file has it, and not before.
//
// A stretched file is a file in a FUSE mount of our own. Its size is 4 EiB for whoever
// asks, and its pages are those of another file: FUSE_PASSTHROUGH has the kernel (since
// Linux 6.9) mmap the file behind it. So a mapping of the stretched file is a mapping of
// the file, in the same page cache, and nothing of the file changes.
//
//	daemon ──(socket: descriptor)──> helper ──(open)──> kernel ──(FUSE)──> helper
//	       <──(socket: stretched)──
//
// The mount needs CAP_SYS_ADMIN, also later, which a daemon that reads requests of a
// guest should not have. So a helper process keeps it, and does nothing else: Serve. It
// sees no names and no data, and gives no access that the descriptor did not have. The
// mount is in no namespace: nobody can walk into it.
//
// Whoever has a stretched file may ask for its size at any time, and QEMU does while it
// maps, in its main loop; the helper has to answer and waits for nobody.
package stretch
