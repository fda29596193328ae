package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationDAXReboot reboots a guest that has files mapped and has written to them.
// QEMU ends with the reset, as doc/dax.md advises, and the same daemon serves the next one.
// Nothing of the first guest's window is left, and all of its writes are there.
func TestIntegrationDAXReboot(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const files, size = 8, 5<<20 + 5
	d := start(t, "", "--dax=inode", "--dax-window-size=64M", "--keep-listening")
	stampedFiles(t, d.dir, files, size&^0xffff)
	first := daxGuest(t, d, guest.QEMU11, `
		daxguest dax /mnt/fs/f0 yes
		daxguest churn /mnt/fs 1 2 1
		daxguest touch /mnt/fs yes >/tmp/out & # keeps all mapped
		until grep touched /tmp/out; do sleep 0.2; done
		echo "== away"; $BUSYBOX reboot -f; sleep 60`)
	r, err := guest.Run(t.Context(), guest.QEMU11, first)
	if err != nil && strings.Contains(err.Error(), "signal:") {
		t.Error("QEMU has not ended by itself")
	}
	if !errors.Is(err, guest.ErrNoStatus) || !strings.Contains(r.Output, "== away") || !strings.Contains(r.Output, "# touched") {
		t.Fatalf("first guest: %v\n%s", err, tail(r.Output))
	}
	want := sumLines(onHost(t, "sums", d.dir))
	out := run(t, guest.QEMU11, daxGuest(t, d, guest.QEMU11, `
		echo "== second"
		cat /mnt/fs/f7 /mnt/fs/f6 > /dev/null # in another order
		daxguest sums /mnt/fs; echo "== "`))
	sameSums(t, "after the reboot", sumLines(section(out, "second")), want, files, func(string) bool { return false })
}

// TestIntegrationDAXPause pauses a guest that uses mappings, changes a mapped file on the
// host, and continues the guest. The guest sees the change through its mapping, and can
// map more. Then the daemon is killed. The guest keeps its mappings: they are the host's
// page cache, and both sides still write to it. QEMU continues, though it can't connect
// again (see doc/dax.md).
func TestIntegrationDAXPause(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--dax=inode", "--dax-window-size=64M")
	paused, more := filepath.Join(d.dir, "paused"), filepath.Join(d.dir, "more")
	for _, path := range []string{paused, more} {
		if err := os.WriteFile(path, make([]byte, 4<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	qmp := filepath.Join(guest.TempDir(t), "qmp")
	o := daxGuest(t, d, guest.QEMU11, `cd /mnt/fs
		daxguest dax paused yes
		daxguest echo paused more`)
	o.ExtraArgs = []string{"-qmp", "unix:" + qmp + ",server=on,wait=off"}
	vm, err := guest.Start(t.Context(), guest.QEMU11, o)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	says := func(text string) {
		t.Helper()
		if err := vm.WaitOutput(t.Context(), text); err != nil {
			t.Fatalf("%v\ndaemon:\n%s", err, tail(d.log.String()))
		}
	}
	m := dialMonitor(t, qmp)
	says("# echo 0\n")
	host := openBytes(t, paused)
	for round := byte(1); round <= 3; round++ {
		m.command(t, "stop", nil)
		counted := host.get(countByte)
		host.put(orderByte, round)
		if now := host.get(countByte); now != counted {
			t.Fatalf("a guest that is paused writes: %d, %d", counted, now)
		}
		m.command(t, "cont", nil)
		says(fmt.Sprintf("# echo %d\n", round))
	}
	says("# mapped more\n")

	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	host.put(orderByte, 4)
	says("# echo 4\n")
	if b, err := os.ReadFile(more); err != nil || b[0] != 4 || b[2<<20] != 4 {
		t.Errorf("the other file: %d, %d, %v", b[0], b[2<<20], err)
	}
	if v := m.command(t, "query-status", nil); v["status"] != "running" {
		t.Errorf("QEMU: %v", v)
	}
}

// Places in the first file of "daxguest echo".
const (
	orderByte = 0
	countByte = 8
)

// hostFile is a file that the host reads and writes by system calls.
type hostFile struct {
	t testing.TB
	*os.File
}

func openBytes(t testing.TB, path string) hostFile {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return hostFile{t, f}
}

func (f hostFile) get(at int64) byte {
	f.t.Helper()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		f.t.Fatal(err)
	}
	return b[0]
}

func (f hostFile) put(at int64, b byte) {
	f.t.Helper()
	if _, err := f.WriteAt([]byte{b}, at); err != nil {
		f.t.Fatal(err)
	}
}
