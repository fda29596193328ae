package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// monitor is QEMU's machine protocol.
type monitor struct {
	conn net.Conn
	json *json.Decoder
}

// dialMonitor connects to QEMU, which may not listen yet.
func dialMonitor(t testing.TB, path string) *monitor {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			m := &monitor{conn: c, json: json.NewDecoder(c)}
			m.command(t, "qmp_capabilities", nil)
			return m
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// command runs a command and returns what it answers.
func (m *monitor) command(t testing.TB, name string, arguments map[string]any) map[string]any {
	t.Helper()
	_ = m.conn.SetDeadline(time.Now().Add(60 * time.Second))
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		t.Fatal(err)
	}
	for {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := m.json.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		if answer.Error != nil {
			t.Fatalf("%s: %s", name, answer.Error.Desc)
		}
		if answer.Return != nil { // otherwise the greeting, or an event
			var v map[string]any
			_ = json.Unmarshal(answer.Return, &v)
			return v
		}
	}
}

// migrated waits until a migration has completed.
func (m *monitor) migrated(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		switch v := m.command(t, "query-migrate", nil); v["status"] {
		case "completed":
			return
		case "failed", "cancelled":
			t.Fatalf("migration: %v", v)
		}
	}
	t.Fatal("the migration does not end")
}

// TestMigration moves a running guest, with files and a directory open, to another QEMU
// and another daemon.
func TestMigration(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const script = `
cd /mnt/fs
mkdir dir && echo hello > dir/file && echo first > log
exec 3<dir/file 4>>log
head -c 1 <&3 > /dev/null
cat other > /dev/null
touch ready
i=0; while ! [ -e go ]; do i=$((i+1)); [ $i -lt 600 ] || exit 9; sleep 0.1; done
[ "$(cat <&3)" = ello ] || exit 10
echo second >&4 || exit 11
cat other || exit 12
mkdir after && echo new > after/file || exit 13
[ "$(ls | tr '\n' ' ')" = "after dir go log other ready " ] || { ls; exit 14; }
`
	here := start(t, "", "--cache=never")
	if err := os.WriteFile(filepath.Join(here.dir, "other"), []byte("other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tmp := guest.TempDir(t)
	qmp, state := filepath.Join(tmp, "qmp"), filepath.Join(tmp, "state")
	o := guest.Options{Script: script, Mem: 256, Timeout: 4 * time.Minute, Shares: []guest.Share{here.Share},
		ExtraArgs: []string{"-qmp", "unix:" + qmp + ",server=on,wait=off"}}
	one, err := guest.Start(context.Background(), guest.QEMU11, o)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(here.dir, "ready"))
	m := dialMonitor(t, qmp)
	m.command(t, "migrate", map[string]any{"uri": "file:" + state})
	m.migrated(t)
	_ = m.conn.Close()
	one.Kill()
	_, _ = one.Wait()
	here.stop(t)

	there := start(t, here.dir, "--cache=never")
	if err := os.WriteFile(filepath.Join(there.dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o.Shares = []guest.Share{there.Share}
	o.ExtraArgs = []string{"-incoming", "file:" + state}
	two, err := guest.Start(context.Background(), guest.QEMU11, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := two.Wait()
	if err != nil || r.Status != 0 {
		t.Fatalf("status %d, %v\n%s\ndaemon:\n%s", r.Status, err, tail(r.Console), tail(there.log.String()))
	}
	for name, want := range map[string]string{"log": "first\nsecond\n", "after/file": "new\n"} {
		b, err := os.ReadFile(filepath.Join(there.dir, name))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
	if t.Failed() {
		fmt.Println(tail(r.Console))
	}
}
