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

// SetWatchError has watching fail with an error, or not any more if it is nil.
func (fs *FS) SetWatchError(err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.newWatcher = func() (*hostwatch.Watcher, error) {
		if err != nil {
			return nil, err
		}
		return hostwatch.New(hostwatch.Options{})
	}
}

// FailWatcher has the watcher fail.
func (fs *FS) FailWatcher() { _ = fs.dirs.current().Close() }
