// Package events tells a guest of what others change on the host.
//
// A virtio-fs guest has no way to be notified of such changes. So a helper in it (govirtiofs-guest watch)
// makes the system call that would have caused the change, and [FS], a server.FileSystem around
// another one, answers as if it were done and does nothing on the host: a phantom. The guest's
// kernel then does what it always does: it tells inotify, and drops what it remembered.
//
//	host change ──> hostwatch.Watcher ──> queue ──> READ of the control file ──> helper
//	                                                                               │ unlink("a/b")
//	inotify, caches <── guest's kernel <── reply "done" <── FS <── UNLINK ─────────┘
//
// # Shares that tell of changes themselves
//
// With NewNotified nothing is watched: the share says what has changed, by FUSE notifications to FS.Notify. Package relay's does,
// whose program does. A notification says less than an event of the host, so FS looks what happened to a name. It is not
// believed more than it has to: what it makes the helper do is limited (maxNotices, noticeRate).
//
// # What is a phantom
//
// Only a request that was announced: opcode, directory and name as in a record that the helper got
// and has not reported as performed; each once, in their order; from the one thread that the helper
// has made known by looking up a secret name. The secret is in the control file, which only root
// of the guest can open: its mode is 0600, that of its directory 0700, and the guest's kernel
// checks both. SETATTR is recognised by a random time of modification in it. Anything else that the
// thread does is a request like any other.
//
// A successor of this process, or a host that the guest moves to, does not know what was announced.
// It refuses what would change something from that thread until the helper has
// introduced itself again: an unlink that was meant as a phantom must not remove a file.
//
// The helper's lookups are answered from what the guest has been told (node table): a removed name
// is still there for it, a new one not yet. Where the guest has no node for a name, it gets a
// ghost: a number that stands for a file that is gone.
//
// # Times
//
// While the helper lives and all is told, what the guest keeps is good for at most [Lease], so that
// a helper that dies leaves nothing stale for longer. Without it that is a second; while
// changes were lost and have not been found again, it is nothing.
//
// # Limits
//
// Everything kept for a guest has one: directories (hostwatch.Options.Max), queued changes
// (maxQueue), ghosts (maxGhosts), announced records (maxBatch).
//
// # Locks
//
//	FS.mu    session, queue, announced records > locks of package nodes
//	dirs.mu  watched directories; a leaf
package events
