package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// TestIntegrationPrivateMemory has VMMs that don't share the guest's memory. The guest
// reports that it has mounted the share, and then hangs. The daemon must log the reason,
// once. Each VMM has each kind of memory with GOVIRTIOFS_LONG=1; otherwise each kind has one of them.
func TestIntegrationPrivateMemory(t *testing.T) {
	once := map[string]guest.Kind{"no backend": guest.QEMU11, "share=off": guest.QEMU72, "ram": guest.QEMU11}
	for _, kind := range []guest.Kind{guest.QEMU72, guest.QEMU11} {
		guest.Need(t, kind)
		for name, memory := range map[string][]string{
			"no backend": {},
			"share=off":  {"-object", "memory-backend-memfd,id=mem,share=off,size=512M", "-numa", "node,memdev=mem"},
			"ram":        {"-object", "memory-backend-ram,id=mem,size=512M", "-numa", "node,memdev=mem"},
		} {
			t.Run(kind.String()+"/"+name, func(t *testing.T) {
				if once[name] != kind {
					long(t)
				}
				d := start(t, "")
				d.NoMount = true
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				vm, err := guest.Start(ctx, kind, guest.Options{
					Shares: []guest.Share{d.Share}, Memory: memory,
					Script: "mkdir -p /mnt/fs; mount -t virtiofs fs /mnt/fs; sleep 1000",
				})
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan guest.Result, 1)
				go func() {
					r, _ := vm.Wait()
					ended <- r
				}()
				for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
					if strings.Contains(d.log.String(), vhostuser.ShareHint) {
						break
					}
				}
				cancel()
				r := <-ended
				d.stop(t)
				if n := strings.Count(d.log.String(), vhostuser.ShareHint); n != 1 {
					t.Errorf("said %d times:\n%s\n%s", n, r.Console, d.log.String())
				}
			})
		}
	}
}
