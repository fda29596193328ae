package integration

import (
	"bufio"
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

// qmp connects to QEMU's control socket and returns what runs a command there.
func qmp(t testing.TB, path string) func(command string) {
	t.Helper()
	var conn net.Conn
	var err error
	for range 500 {
		if conn, err = net.Dial("unix", path); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	in := json.NewDecoder(bufio.NewReader(conn))
	run := func(command string) {
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", command); err != nil {
			t.Error(err)
			return
		}
		for {
			var m map[string]any
			if err := in.Decode(&m); err != nil {
				t.Errorf("%s: %v", command, err)
				return
			}
			if e, ok := m["error"]; ok {
				t.Errorf("%s: %v", command, e)
			}
			if _, ok := m["return"]; ok || m["error"] != nil {
				return
			}
		}
	}
	run("qmp_capabilities")
	return run
}

// TestIntegrationDAXPause stops and continues a guest again and again while it maps files
// through a window of two ranges. QEMU does not answer while it waits for a queue to
// stop, so each time some mappings are left by the request that wanted them.
func TestIntegrationDAXPause(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const files, size = 24, 5<<20 + 5
	d := start(t, "", "--dax=inode", "--dax-window-size=4M")
	stampedFiles(t, d.dir, files, size&^0xffff)
	want := sumLines(onHost(t, "sums", d.dir))
	socket := filepath.Join(guest.TempDir(t), "qmp")
	o := daxGuest(t, d, guest.QEMU11, "for i in 1 2 3; do echo \"== $i\"; daxguest sums /mnt/fs; done; echo '== '")
	o.ExtraArgs = []string{"-qmp", "unix:" + socket + ",server=on,wait=off"}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	vm, err := guest.Start(ctx, guest.QEMU11, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitOutput(ctx, "== 1"); err != nil {
		t.Fatal(err)
	}
	last := make(chan error, 1)
	go func() { last <- vm.WaitOutput(ctx, "== 3") }() // after that QEMU may end at any moment
	command, pauses := qmp(t, socket), 0
	for len(last) == 0 {
		command("stop")
		time.Sleep(5 * time.Millisecond)
		command("cont")
		time.Sleep(40 * time.Millisecond)
		pauses++
	}
	r, err := vm.Wait()
	t.Logf("%d pauses", pauses)
	if err != nil || r.Status != 0 {
		t.Fatalf("guest: status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	for _, round := range []string{"1", "2", "3"} {
		sameSums(t, "round "+round, sumLines(section(r.Output, round)), want, files, func(string) bool { return false })
	}
}

// TestIntegrationDAXReboot reboots a guest with files mapped, without a word to the daemon:
// what was mapped where is forgotten on both sides.
func TestIntegrationDAXReboot(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const files, size = 8, 5<<20 + 5
	d := start(t, "", "--dax=inode", "--dax-window-size=64M")
	stampedFiles(t, d.dir, files, size&^0xffff)
	want := sumLines(onHost(t, "sums", d.dir))
	o := daxGuest(t, d, guest.QEMU11, `
		if [ ! -e /mnt/fs/first ]; then
			: > /mnt/fs/first
			(exec 3< /mnt/fs/f5; daxguest sums /mnt/fs)
			$BUSYBOX reboot -f
		fi
		rm /mnt/fs/first
		echo "== second"
		cat /mnt/fs/f7 /mnt/fs/f6 > /dev/null # in another order
		daxguest sums /mnt/fs; echo "== "`)
	o.Reboots = true
	out := run(t, guest.QEMU11, o)
	sameSums(t, "after the reboot", sumLines(section(out, "second")), want, files, func(string) bool { return false })
	if _, err := os.Stat(filepath.Join(d.dir, "first")); err == nil {
		t.Error("the guest has not rebooted")
	}
}
