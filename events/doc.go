// Package events reports to a guest what others change on the host.
//
// Linux has no notifications of such changes for virtio-fs guests. So a helper in the guest (govirtiofs-guest watch)
// makes the system call that would have caused the change. [FS], a server.FileSystem around
// another one, answers as if it were done and does nothing on the host: a phantom. The guest's
// kernel then does the same as for every call: it raises inotify events, and drops its cached entries.
//
//	host change ──> hostwatch.Watcher ──> queue ──> READ of the control file ──> helper
//	                                                                               │ unlink("a/b")
//	inotify, caches <── guest's kernel <── reply "done" <── FS <── UNLINK ─────────┘
//
// # Shares that report changes themselves
//
// With NewNotified nothing is watched: the share reports changes by FUSE notifications to FS.Notify. A share of package relay
// passes on those of its program. A notification says less than an event of the host, so FS looks up the name to find out what has changed.
// The program is not trusted: the work that its notifications cause is limited (maxNotices, noticeRate).
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
// The helper's lookups are answered from the node table, which has the names that the guest knows: a removed name
// is still there, and a new one is not there yet. Where the guest has no node for a name, the helper gets a
// ghost: a number that stands for a file that no longer exists.
//
// # Times
//
// While the helper runs and receives all changes, the guest may cache for at most [Lease], so that
// nothing is stale for longer after the helper has died. Without a helper the guest may cache for a second. While
// changes were lost and have not been found again, it may not cache at all.
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
