// Package notify keeps what a FUSE client remembers right while others change the files on this machine.
//
// [FS] is a server.FileSystem around another one, for clients that take notifications: those that package
// stream serves. It watches each directory that the client learns something of (package hostwatch), and has
// the client drop what has changed:
//
//	host change ──> hostwatch.Watcher ──> FS ──> fuse.Notifier.Notify(FUSE_NOTIFY_INVAL_...) ──> client's kernel
//
// Programs of the client get no inotify events by this; package events makes those.
//
// # Times
//
// What is in a watched directory may be kept for as long as the file system around which FS is says. What is in
// others, or has more than one name, for a second; and nothing while changes were lost: FS then has the
// client drop all that it knows. That a name does not exist may be kept for ten seconds, since nobody
// knows which of those names a client remembers.
//
// # Limits
//
// hostwatch.DefaultMax directories, and one buffer of events. A client that does not take notifications
// costs their Notifier's limit, and then nothing: see ErrNobody of package stream.
package notify
