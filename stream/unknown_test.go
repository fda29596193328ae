package stream

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// TestUnknownSessionLog: the log of a restarted server says once that the guest begins another session, and asks nobody
// to mount again, which would be needless. A server that can't have it do so says that it is refused.
func TestUnknownSessionLog(t *testing.T) {
	for name, c := range map[string]struct {
		renew     bool
		want, not string
	}{
		"another session":     {true, "level=INFO msg=\"The session of the guest is not known here (the daemon was restarted, or has ended it): it begins a new one; files that it had open are stale\"", "unmount"},
		"no session any more": {false, "level=WARN msg=\"Connection from the VMM's socket refused: there is no such session any more: unmount and mount again\"", "begins"},
	} {
		t.Run(name, func(t *testing.T) {
			var log daemontest.Log
			_, path := startServer(t, newRecorder(), Options{Renew: c.renew, Log: slog.New(slog.NewTextHandler(&log, nil))})
			for channel := range uint32(2) {
				h := hello{Mode: modeResume, Session: id{1}, Channel: channel}
				if _, err := dialGuest(t, path).greet(h, "", ""); !errors.Is(err, ErrStale) {
					t.Fatalf("a session that is not there: %v, want %v", err, ErrStale)
				}
			}
			if c.renew {
				if _, err := dialGuest(t, path).greet(hello{Mode: modeRenew, Session: id{2}}, "", ""); err != nil {
					t.Fatal(err)
				}
			}
			if n := strings.Count(log.String(), c.want); n != 1 {
				t.Errorf("the log says it %d times, want once:\n%s", n, &log)
			}
			if strings.Contains(log.String(), c.not) {
				t.Errorf("the log says %q:\n%s", c.not, &log)
			}
		})
	}
}

// TestRefusedForm is the form of what the log says of equal refusals.
func TestRefusedForm(t *testing.T) {
	var log daemontest.Log
	_, path := startServer(t, newRecorder(), Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := dialGuest(t, path).greet(hello{Session: id{1}}, "", ""); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, err := dialGuest(t, path).greet(hello{Session: id{2}}, "", "")
		if !errors.Is(err, ErrBusy) || err.Error() != "the share is in use by another mount; unmount that one" {
			t.Fatalf("a second mount: %v", err)
		}
	}
	if n := strings.Count(log.String(), "refused"); n != 1 {
		t.Errorf("%d lines, want one:\n%s", n, &log)
	}
}
