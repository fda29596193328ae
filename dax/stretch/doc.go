// Package stretch makes files look longer than they are, for VMMs that do not map past the
// end of a file.
//
// QEMU checks the size of a file before it maps it into a guest's DAX window, and
// refuses a range that ends behind the file's end. Guests ask for whole ranges of 2 MiB, so
// QEMU would refuse the last range of most files. mmap itself has no such limit: a page can
// be accessed as soon as the file has it.
//
// A stretched file is a file in a FUSE mount of our own. stat gives its size as 4 EiB. Its
// pages are those of another file: with FUSE_PASSTHROUGH (since Linux 6.9) the kernel maps
// this backing file. So a mapping of the stretched file is a mapping of the backing file, in
// the same page cache. The backing file does not change.
//
//	daemon ──(socket: descriptor)──> helper ──(open)──> kernel ──(FUSE)──> helper
//	       <──(socket: stretched)──
//
// The mount needs CAP_SYS_ADMIN as long as it is used. A daemon that reads requests of a guest
// should not have this capability. So a helper process has it, and only runs Serve. The helper
// sees no names and no data, and gives no access that the descriptor did not have. The mount
// is attached to no mount namespace, so no path leads into it.
//
// A process with a stretched file may ask for its size at any time. QEMU does so in its main
// loop while it maps. So the helper always answers at once and never waits for another
// process.
package stretch
