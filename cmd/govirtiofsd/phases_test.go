package main

import (
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationDeathPhases: the log of a recovery says how long each part of it took.
func TestIntegrationDeathPhases(t *testing.T) {
	guest.NeedRoot(t)
	socket := filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--log-level=debug", "--shared-dir="+tempDir(t), "--socket-path="+socket)
	d.waitLine(waitingLine)
	c := connect(t, socket)
	if err := unix.Kill(childOf(t, d.cmd.Process.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Getattr(fp.RootID); err != nil {
		t.Fatal(err)
	}
	d.waitLine("Until the first reply")
	const some = `\S+ \(\S+s\)`
	want := `reply, and processor time: program ` + some + `, options ` + some + `, view ` + some + `, privileges ` + some +
		`, filter ` + some + `, receive ` + some + `, take over ` + some + `, ledger ` + some + `, rings ` + some + `, reply ` + some + `$`
	if !regexp.MustCompile(want).MatchString(d.said[len(d.said)-1]) {
		t.Errorf("the log has %q, want %s", d.said[len(d.said)-1], want)
	}
	c.Close()
	d.wantStatus(exitOK)
}
