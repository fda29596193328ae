package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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

// TestIntegrationDeathPrivileges: each thread of a successor, which is started in another way than the first worker, has the
// same privileges as those of the first one, in each kind of sandbox.
func TestIntegrationDeathPrivileges(t *testing.T) {
	guest.NeedRoot(t)
	for _, sandbox := range []string{"namespace", "chroot", "none"} {
		socket := filepath.Join(tempDir(t), "s")
		d := startDaemon(t, nil, "--sandbox="+sandbox, "--modcaps=-mknod", "--shared-dir="+tempDir(t), "--socket-path="+socket)
		d.waitLine(waitingLine)
		c := connect(t, socket)
		var first []string
		for range 3 {
			worker := childOf(t, d.cmd.Process.Pid)
			got := privileges(t, worker)
			if first == nil {
				first = got
			}
			if !slices.Equal(got, first) || len(got) != 8 {
				t.Errorf("%s: a successor has %q, want %q for each thread", sandbox, got, first)
			}
			if err := unix.Kill(worker, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Getattr(fp.RootID); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		d.wantStatus(exitOK)
	}
}

// privileges are the lines about privileges of all threads of a process, each once.
func privileges(t *testing.T, pid int) (list []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(b)) {
			for _, name := range []string{"Cap", "NoNewPrivs:", "Seccomp:", "Groups:"} {
				if strings.HasPrefix(line, name) {
					list = append(list, line)
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
