package main

import (
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
)

// watchCalls are the system calls that only watching the host needs.
func (o *options) watchCalls() []uintptr {
	if o.Events != share.EventsAuto || o.relay != nil {
		return nil
	}
	return []uintptr{unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
		unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_RM_WATCH}
}

// withEvents is the file system, with what tells the guest of the host's changes if it is asked for.
func (o *options) withEvents(fs *passthrough.FS, l *ledger.Ledger, log *slog.Logger) (server.FileSystem, error) {
	if o.Events != share.EventsAuto {
		return fs, nil
	}
	return events.New(fs, events.Options{ReadOnly: o.ReadOnly, Ledger: l, Log: log, Inotify: sandbox.FanotifyForbidden()})
}
