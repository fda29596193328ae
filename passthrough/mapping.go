package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// SetupMapping implements server.Mappings. There is no window to map into: a guest
// that does not see one does not ask.
func (fs *FS) SetupMapping(*server.Request, *fp.SetupMappingIn) unix.Errno { return unix.ENOSYS }

// RemoveMapping implements server.Mappings.
func (fs *FS) RemoveMapping(*server.Request, []fp.RemoveMappingOne) unix.Errno { return unix.ENOSYS }
