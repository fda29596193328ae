package events

import "time"

// SetLease sets what is Lease otherwise.
func (fs *FS) SetLease(d time.Duration) { fs.lease = d }
