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

// TestMigration moves a running guest, with files and a directory open and a helper that hears of the host's changes, to
// another QEMU and another daemon. It may keep everything, and sees what has changed on the way.
func TestMigration(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const script = `
/run/helper watch /mnt/fs >/run/helped 2>&1 & h=$!
until grep -q reported /run/helped; do sleep 0.1; done
cd /mnt/fs
mkdir dir && echo hello > dir/file && echo first > log
exec 3<dir/file 4>>log
head -c 1 <&3 > /dev/null
cat other > /dev/null
[ -e go ] && exit 8
/run/guestwatch -ready /run/watching -until told /mnt/fs >/run/seen & w=$!
until [ -e /run/watching ]; do sleep 0.1; done
touch ready
i=0; while ! [ -e go ]; do i=$((i+1)); [ $i -lt 600 ] || { cat /run/helped; exit 9; }; sleep 0.1; done
[ "$(cat <&3)" = ello ] || exit 10
echo second >&4 || exit 11
i=0; until [ "$(cat other)" = changed ]; do i=$((i+1)); [ $i -lt 600 ] || { cat other /run/helped; exit 12; }; sleep 0.1; done
touch moved
i=0; until grep "CREATE told" /run/seen; do i=$((i+1)); [ $i -lt 600 ] || { cat /run/seen /run/helped; exit 15; }; sleep 0.1; done
kill $h; wait $w $h; rm told
mkdir after && echo new > after/file || exit 13
[ "$(ls | tr '\n' ' ')" = "after dir go log moved other ready " ] || { ls; exit 14; }
`
	here := start(t, "", "--cache=always", "--events=auto")
	if err := os.WriteFile(filepath.Join(here.dir, "other"), []byte("other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	helper, watch := build(t, "build", "./cmd/govirtiofs-guest"), build(t, "build", "./internal/guest/cmd/guestwatch")
	tmp := guest.TempDir(t)
	qmp, state := filepath.Join(tmp, "qmp"), filepath.Join(tmp, "state")
	o := guest.Options{Script: script, Mem: 256, Timeout: 4 * time.Minute, Shares: []guest.Share{here.Share},
		Files:     map[string]string{helper: "/run/helper", watch: "/run/guestwatch"},
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

	sh(t, here.dir, "echo changed >other; : >go")
	there := start(t, here.dir, "--cache=always", "--events=auto")
	o.Shares = []guest.Share{there.Share}
	o.ExtraArgs = []string{"-incoming", "file:" + state}
	two, err := guest.Start(context.Background(), guest.QEMU11, o)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(there.dir, "moved"))
	sh(t, there.dir, ": >told")
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
