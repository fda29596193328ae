package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestIntegrationKilled: when the process that serves the mount is killed, programs in the guest get an error at once and
// do not hang, also those that wait for a reply, and the share can be mounted again at the same place.
func TestIntegrationKilled(t *testing.T) {
	h := newHost(t, "--locks=host") // a lock that waits is a request without a reply
	said := shell(t, fmt.Sprintf(`cd %s
$GUEST mount -f -o token=%[2]s unix:v_1024 mnt 2>/dev/null &
helper=$!
for i in $(seq 1000); do grep -q $PWD/mnt /proc/self/mounts && break; sleep 0.02; done
echo one >mnt/file
sh -c 'exec 9>>mnt/file; flock 9; exec sleep 60' & holder=$!
for i in $(seq 1000); do flock -n mnt/file true || break; sleep 0.02; done
(flock mnt/file true || echo waiter failed) & waiter=$!
sleep 0.2
kill -9 $helper; wait $helper || true
wait $waiter
cat mnt/file 2>&1 || true
kill $holder; wait $holder || true
umount mnt
$GUEST mount -o token=%[2]s unix:v_1024 mnt
cat mnt/file; umount mnt
`, h.dir, h.token))
	for _, want := range []string{"waiter failed", "endpoint is not connected", "\none"} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in:\n%s", want, said)
		}
	}
	h.wait("another mount takes its place")
	h.stop()
}
