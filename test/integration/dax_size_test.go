package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationDAXLargeWindow has a window of 8 GiB, more than the guest's memory.
func TestIntegrationDAXLargeWindow(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--dax=inode", "--dax-window-size=8G", steadyTimes)
	stampedFiles(t, d.dir, 8, 32<<20)
	o := daxGuest(t, d, guest.QEMU11, `dmesg | grep -o "Cache len: [^ ]*"
		daxguest dax /mnt/fs/f7 yes; daxguest churn /mnt/fs 2 2 1`+noComplaints)
	// The older chipset has no room for it below the processor's limit of addresses.
	o.ExtraArgs = []string{"-machine", "q35"}
	if out := run(t, guest.QEMU11, o); !strings.Contains(out, "Cache len: 0x200000000") {
		t.Error(tail(out))
	}
}

// memory is the memory of a process and its children, in KiB. A page that several
// processes map is divided among them. shmem is the part that is guest memory, file the
// part that is files.
func memory(t testing.TB, pid int) (all, shmem, file int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("no %s in %s", name, b)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	all, shmem, file = field("Pss"), field("Pss_Shmem"), field("Pss_File")
	for _, child := range daemontest.Children(t, pid) {
		x, y, z := memory(t, child)
		all, shmem, file = all+x, shmem+y, file+z
	}
	return all, shmem, file
}

// TestIntegrationDAXMemory has two guests read the same 256 MiB, with and without DAX. It
// logs the memory that this takes on the host, where the files are already in the page
// cache.
func TestIntegrationDAXMemory(t *testing.T) {
	long(t)
	guest.Need(t, guest.QEMU11)
	const files, size = 4, 64 << 20
	cost := map[string]int{}
	for _, mode := range []string{"dax=inode", "dax=never"} {
		one := start(t, "", "--dax=inode", "--dax-window-size=512M")
		two := start(t, one.dir, "--dax=inode", "--dax-window-size=512M")
		for i := range files {
			b := make([]byte, size)
			for j := range b {
				b[j] = byte(j>>12) + byte(i)
			}
			if err := os.WriteFile(filepath.Join(one.dir, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i, d := range []*daemon{one, two} {
			o := daxGuest(t, d, guest.QEMU11, "touch /run/x; echo BEFORE; sleep 6; daxguest touch /mnt/fs yes")
			o.MountOptions, o.Mem = mode, 1024
			vm, err := guest.Start(t.Context(), guest.QEMU11, o)
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			var had [2]int
			for j, text := range []string{"BEFORE\n", "# touched"} {
				if err := vm.WaitOutput(t.Context(), text); err != nil {
					t.Fatal(err)
				}
				_, a, af := memory(t, vm.PID())
				_, b, bf := memory(t, d.servingPID(t))
				had[j] = a + b
				t.Logf("%s, guest %d, at %q: memory of the guest %d MiB, files mapped %d MiB", mode, i+1, text, had[j]>>10, (af+bf)>>10)
			}
			cost[mode] += (had[1] - had[0]) >> 10
		}
		t.Logf("%s: two guests that read the same %d MiB have %d MiB more of their own", mode, files*size>>20, cost[mode])
	}
	if cost["dax=inode"] > 100 || cost["dax=never"] < 400 {
		t.Errorf("it does not pay: %v", cost)
	}
}

// TestIntegrationDAXRate logs how often a guest can map, through a window of two ranges.
func TestIntegrationDAXRate(t *testing.T) {
	long(t)
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--dax=inode", "--dax-window-size=4M")
	stampedFiles(t, d.dir, 1, 64<<20)
	t.Log(run(t, guest.QEMU11, daxGuest(t, d, guest.QEMU11, "daxguest rate /mnt/fs/f0 5")))
}

// TestIntegrationDAXGrow makes files with DAX longer and shorter on both sides while the
// guest has them open. The guest never reads wrong data. Where the daemon can't map files
// of any size, the guest may get EIO until it has opened the file again.
func TestIntegrationDAXGrow(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--dax=inode", "--dax-window-size=64M")
	for _, name := range []string{"guest-grows", "host-grows", "guest-cuts", "host-cuts"} {
		b := make([]byte, 4<<20)
		for i := range b {
			b[i] = byte(i>>12)*7 + name[0]
		}
		if err := os.WriteFile(filepath.Join(d.dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := guest.Start(context.Background(), guest.QEMU11, daxGuest(t, d, guest.QEMU11, `cd /mnt/fs
		for f in *-*; do daxguest dax $f yes; done
		exec 3<guest-grows 4<host-grows 5<guest-cuts 6<host-cuts
		cat *-* >/dev/null
		echo more >>guest-grows; truncate -s 3000000 guest-cuts
		echo READY; while [ ! -e go ]; do sleep 0.2; done; sleep 2
		echo "== open"; daxguest sums .
		exec 3<&- 4<&- 5<&- 6<&-
		echo 2 >/proc/sys/vm/drop_caches; sleep 1
		echo "== closed"; daxguest sums .; echo "== "`))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.WaitOutput(context.Background(), "READY\n"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(d.dir, "host-grows"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("more from the host")
	if err := errors.Join(err, f.Close(), os.Truncate(filepath.Join(d.dir, "host-cuts"), 2_100_000),
		os.WriteFile(filepath.Join(d.dir, "go"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	r, err := vm.Wait()
	if err != nil || r.Status != 0 {
		t.Fatalf("status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	want := sumLines(onHost(t, "sums", d.dir))
	all := anySize(t, d)
	sameSums(t, "open", sumLines(section(r.Output, "open")), want, 5, func(string) bool { return !all })
	sameSums(t, "closed", sumLines(section(r.Output, "closed")), want, 5, func(string) bool { return false })
	if t.Failed() {
		t.Log(tail(r.Output))
	}
}

// TestIntegrationDAXReset resets the device twice while QEMU and the daemon continue.
// The guest unmounts first: QEMU 11.1 crashes when it resets a device that has files
// mapped, with any back-end; see doc/dax.md. So this also tests that the end of a
// session leaves no mapping.
func TestIntegrationDAXReset(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--dax=inode", "--dax-window-size=16M", steadyTimes)
	files := filepath.Join(d.dir, "d")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	stampedFiles(t, files, 3, 4<<20)
	o := daxGuest(t, d, guest.QEMU11, `mkdir /mnt/fs; mount -t virtiofs fs /mnt/fs
		daxguest dax /mnt/fs/d/f1 yes; daxguest churn /mnt/fs/d 1 2 1
		n=$(cat /mnt/fs/boots 2>/dev/null || echo 0); n=$((n+1)); rm -f /mnt/fs/boots; [ $n = 3 ] || echo $n >/mnt/fs/boots
		umount /mnt/fs
		if [ $n != 3 ]; then sleep 1; $BUSYBOX reboot -f; sleep 30; fi
		echo third boot`)
	o.Shares[0].NoMount, o.Reboots = true, true
	if out := run(t, guest.QEMU11, o); !strings.Contains(out, "third boot") {
		t.Error(tail(out))
	}
}
