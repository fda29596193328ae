package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationQEMU72 uses the VMM and the kernel of Debian 12.
func TestIntegrationQEMU72(t *testing.T) {
	guest.Need(t, guest.QEMU72)
	d := start(t, "", "--allow-direct-io")
	tree(t, filepath.Join(d.dir, "a"), 100)
	run(t, guest.QEMU72, guest.Options{Shares: []guest.Share{d.Share}, Script: basics})
	checkBasics(t, d)
}

const basics = `set -e; cd /mnt/fs
	cp -r a b; diff -r a b; rm -r b
	dd if=/dev/zero of=big bs=1M count=8; dd if=big of=copy bs=64k oflag=direct iflag=direct; cmp big copy
	mv copy moved; ln moved link; ln -s moved symlink; cmp symlink link
	find a -type f | sort | xargs sha256sum >guest.sums; wc -l <guest.sums
	echo done >result`

func checkBasics(t *testing.T, d *daemon) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(d.dir, "result")); err != nil || string(b) != "done\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestIntegrationReboot reboots a guest while the daemon and QEMU continue.
func TestIntegrationReboot(t *testing.T) {
	guest.Need(t, guest.QEMU72)
	d := start(t, "")
	run(t, guest.QEMU72, guest.Options{Shares: []guest.Share{d.Share}, Reboots: true, Script: `cd /mnt/fs
		n=$(cat boots 2>/dev/null); n=$((${n:-0}+1)); echo $n >boots; sync
		[ $n -ge 3 ] || { reboot -f; sleep 30; }`})
	if b, _ := os.ReadFile(filepath.Join(d.dir, "boots")); string(b) != "3\n" {
		t.Errorf("boots: %q", b)
	}
}

// TestIntegrationQueues has Linux 7.2 use four request queues, one for each
// processor.
func TestIntegrationQueues(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	d := start(t, "", "--allow-direct-io")
	d.Queues, d.QueueSize = 4, 1024
	tree(t, filepath.Join(d.dir, "a"), 100)
	run(t, guest.QEMU11, guest.Options{Shares: []guest.Share{d.Share}, CPUs: 4, Script: basics + `
		for cpu in 0 1 2 3; do taskset $((1<<cpu)) sh -c 'for i in $(seq 12); do echo x >q'$cpu'; rm q'$cpu'; done'; done`})
	checkBasics(t, d)
	d.stop(t)
	served := map[string]int{}
	for _, m := range regexp.MustCompile(`queue stopped after (\d+) requests queue=(\d+)`).FindAllStringSubmatch(d.log.String(), -1) {
		n, _ := strconv.Atoi(m[1])
		served[m[2]] += n
	}
	for q := 1; q <= 4; q++ {
		if served[fmt.Sprint(q)] < 24 {
			t.Errorf("requests by queue: %v", served)
		}
	}
}
