package inguest

import (
	"os"
	"testing"

	"github.com/govirtiofs/govirtiofs/passthrough/fstest"
)

// TestConformance is the suite that also runs over /dev/fuse on the host.
// GOVIRTIOFS_GUEST_SKIP names one of its tests, which does not apply to the
// mount.
func TestConformance(t *testing.T) {
	fstest.Run(t, work(t), "", os.Getenv("GOVIRTIOFS_GUEST_SKIP"))
}
