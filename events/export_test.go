package events

import (
	"fmt"
	"time"

	"github.com/govirtiofs/govirtiofs/hostwatch"
)

// SetUnsupported has the host not be watched.
func (fs *FS) SetUnsupported() {
	fs.newWatcher = func() (*hostwatch.Watcher, error) { return nil, fmt.Errorf("a test: %w", hostwatch.ErrUnsupported) }
}

// SetLease sets what is Lease otherwise.
func (fs *FS) SetLease(d time.Duration) { fs.lease = d }
