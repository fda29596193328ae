package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationDAXReboot reboots a guest after it has unmounted a share with files
// mapped. Without that QEMU 11.1 crashes by itself, see doc/dax.md.
func TestIntegrationDAXReboot(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	const files, size = 8, 5<<20 + 5
	d := start(t, "", "--dax=inode", "--dax-window-size=64M")
	stampedFiles(t, d.dir, files, size&^0xffff)
	want := sumLines(onHost(t, "sums", d.dir))
	o := daxGuest(t, d, guest.QEMU11, `
		if [ ! -e /mnt/fs/first ]; then
			: > /mnt/fs/first
			daxguest sums /mnt/fs
			$BUSYBOX umount /mnt/fs
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
