// Package hostwatch says what others change in directories of this machine.
//
// A [Watcher] marks single directories, each by a descriptor: names are not needed, and it works
// in a sandbox. It uses fanotify(7) as a process without privileges may (Linux 5.13; renames as one event
// since 5.17), also in a user namespace. An [Event] says which directory, which name in it, and what
// has happened. Changes that this process makes itself are left out, by the process number that
// comes with each event: nothing is guessed.
//
// Where a filter of a container or a service forbids fanotify, or the kernel has none, it uses inotify(7). That has no
// process numbers, so changes of this process are among the others: see [Watcher.TellsOwn].
//
// What it does not see: writes through a shared mapping, changes that another machine makes on a
// network file system, and changes of a file by a name in a directory that is not marked.
//
// Memory is bounded: [Options.Max] directories, each about 200 bytes here and 1 KiB in the kernel
// (its inode stays in memory), and the kernel's queue of 16,384 events. When that overflows there
// is an event that says so: [Overflow].
package hostwatch
