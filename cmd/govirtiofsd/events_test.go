package main

import (
	"log/slog"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// TestEventsOff: without --events nothing stands between the server and the file system, and no system call
// more is allowed.
func TestEventsOff(t *testing.T) {
	o := &options{}
	o.Events = share.EventsNever
	inner := &passthrough.FS{}
	fs, err := o.withEvents(inner, nil, slog.Default())
	if err != nil || fs != any(inner) {
		t.Errorf("%T, %v", fs, err)
	}
	if calls := o.watchCalls(); calls != nil {
		t.Errorf("%v", calls)
	}
}
