// Package vfs is for file systems written in Go. A [Node] is a file, a directory or a link: a
// value with one method, [Node].Attr, and the optional methods that it needs. New makes a
// server.FileSystem of a root node, which govirtiofs.ListenAndServe gives to guests and
// fusedev.Mount.Serve to this machine.
//
//	type hello struct{}
//
//	func (hello) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: 0o444, Size: 6}, nil }
//	func (hello) ReadAt(p []byte, off int64) (int, error) {
//		return strings.NewReader("hello\n").ReadAt(p, off)
//	}
//
// # Optional methods
//
// Each optional method has an interface of its own: [Lookuper], [ReadDirer], [Opener],
// [Creator] and so on. A node without a method refuses what needs it, with the error that the
// kernel gives for a file system that lacks it. A read-only file system writes none of the
// methods that change something.
//
// # What a node is
//
// Two nodes are the same file if they are equal (==). A pointer is always itself. A value like
// struct{ path string } is the same file whenever the path is the same, and so needs no table:
// that is right where nothing is renamed. Values that can't be compared, such as structs with a
// slice, are refused.
//
// This package manages the numbers that the client has for nodes and open files, and the lookup counts.
// When the client has forgotten a node, the node is called if it is a [Forgetter].
//
// # Open files
//
// [Opener] returns a [Handle]: any value. What can be done with an open file depends on its
// methods: [Reader] or io.ReaderAt, [Writer] or io.WriterAt, [Flusher], [Syncer], io.Closer. An
// *os.File is a complete Handle. A node without [Opener] is its own Handle. Rarer methods are those of
// [Locker] (see [Locks]), [Ioctler], [Poller], [Allocater], [HoleFinder] and [CopyReceiver].
//
// # Notifications
//
// Over /dev/fuse and vsock the client's kernel can be notified of changes that it has not made: [FS.Connect], [FS.InvalidateNode],
// [FS.InvalidateEntry]. Virtio-fs has no notifications: use short timeouts there.
//
// # Blocking and cancelling
//
// Methods run at the same time, each on a goroutine of its own, and may block: at most
// [Options].MaxRunning of them run, and the rest wait for their turn. The queue continues
// meanwhile. The context ends when the client interrupts the request (which Linux does over
// /dev/fuse and vsock; virtio-fs has no such request), or when the session ends. Every signal to the calling process
// ends the context, not only SIGKILL. So a method that has little work left should finish it, and
// return the context's error only if it would wait. [CallerOf] says who has made the request.
//
// A file system whose methods never block sets [Options].NonBlocking. Its methods run on the
// thread of the queue, which saves the change of goroutine.
//
// # Decorators
//
// A node around another node is a [Wrapper]. Methods that it does not have itself are those of the inner node,
// also all optional ones. Nodes that the inner node returns are wrapped again.
// The functions of this package ([Lookup], [ReadDir], [Open], ...) call a method of an inner node in the
// same way.
//
// # Errors
//
// Errors become error numbers by server.Errno: a unix.Errno (which is a syscall.Errno) in the chain,
// the errors of io/fs, those of package context. Other errors are EIO for the client.
//
// # Compatibility
//
// The interfaces of this package do not get more methods. New abilities are new interfaces.
package vfs
