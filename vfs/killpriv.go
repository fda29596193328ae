package vfs

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Options.KillPriv (FUSE_HANDLE_KILLPRIV_V2): whoever changes the data or the owner of a file ends its set-ID bits
// and its capabilities. Linux then leaves that to the file system (fs/fuse/dir.c, file.c), and says in
// OPEN, WRITE and SETATTR who may not keep set-ID bits. Before FALLOCATE and COPY_FILE_RANGE by such a user comes a
// SETATTR that changes nothing, since Linux 6.1.

// capability is the attribute in which Linux keeps a file's capabilities.
const capability = "security.capability"

// withoutSetID is what a change of a file leaves of its mode. The bits of a directory mean something else.
func withoutSetID(mode fs.FileMode) fs.FileMode {
	if mode.IsDir() {
		return mode
	}
	mode &^= fs.ModeSetuid
	if mode&0o010 != 0 {
		mode &^= fs.ModeSetgid
	}
	return mode
}

// settable is what SetAttr.Mode has.
const settable = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// changesData comes before a change of a file's data; setID says that who makes it may not keep set-ID bits.
func (f *FS) changesData(ctx context.Context, n *inode, setID bool) error {
	if !f.killPriv.Load() {
		return nil
	}
	if setID {
		attr, err := n.Key().Attr(ctx)
		if err != nil {
			return err
		}
		if mode := withoutSetID(attr.Mode); mode != attr.Mode {
			mode &= settable
			if err := SetAttrOf(ctx, n.Key(), SetAttr{Mode: &mode}); err != nil {
				return err
			}
		}
	}
	return f.dropCapability(ctx, n)
}

// dropCapability removes a file's capabilities. A file that had none when it was last asked is not asked again.
func (f *FS) dropCapability(ctx context.Context, n *inode) error {
	if !f.xattrs || n.noCapability.Load() {
		return nil
	}
	x, ok := As[Xattrer](n.Key())
	if !ok {
		return nil
	}
	n.noCapability.Store(true) // before the question: who sets them meanwhile says so after it
	err := removeCapability(ctx, n.Key(), x)
	if err != nil {
		n.noCapability.Store(false)
	}
	return err
}

func removeCapability(ctx context.Context, n Node, x Xattrer) error {
	_, err := x.Getxattr(ctx, capability)
	if err == nil {
		if set, ok := As[XattrSetter](n); ok {
			err = set.Removexattr(ctx, capability)
		}
	}
	switch server.Errno(err) {
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ENOSYS:
		return nil // there is none
	}
	return err
}

// truncateExisting truncates a file that CREATE has found. setID says that the caller may not keep set-ID bits.
func (f *FS) truncateExisting(ctx context.Context, n Node, attr *Attr, setID bool) error {
	set := SetAttr{Size: new(int64)}
	if f.killPriv.Load() {
		if mode := withoutSetID(attr.Mode); setID && mode != attr.Mode {
			mode &= settable
			set.Mode = &mode
		}
		if x, ok := As[Xattrer](n); ok && f.xattrs {
			if err := removeCapability(ctx, n, x); err != nil {
				return err
			}
		}
	}
	return SetAttrOf(ctx, n, set)
}

// beforeSetattr does for a SETATTR what else it has to do with privileges. The SETATTR itself may set the mode.
func (f *FS) beforeSetattr(ctx context.Context, r *server.Request, in *fp.SetattrIn, set *SetAttr) error {
	if !f.killPriv.Load() {
		return nil
	}
	n := f.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return unix.ESTALE
	}
	defer f.nodes.Release(n)
	touch := in.Valid&^(fp.FattrFh|fp.FattrLockowner|fp.FattrCtime|fp.FattrKillSuidgid) == 0
	chown := in.Valid&(fp.FattrUID|fp.FattrGID) != 0
	if !touch && !chown && in.Valid&fp.FattrSize == 0 {
		return nil
	}
	attr, err := n.Key().Attr(ctx)
	if err != nil || attr.Mode&(fs.ModeDir|fs.ModeSymlink) != 0 {
		return err
	}
	// The kernel lets everybody call chown(-1, -1) for any file, which looks like what it sends before others change data.
	if uid := r.Header.UID; touch && uid != 0 && uid != attr.UID && n.writers.Load() == 0 {
		return nil
	}
	if mode := withoutSetID(attr.Mode); set.Mode == nil && mode != attr.Mode && (touch || chown || in.Valid&fp.FattrKillSuidgid != 0) {
		mode &= settable
		set.Mode = &mode
	}
	return f.dropCapability(ctx, n)
}

// capabilitySet is told that an attribute of a node was set, or may have been.
func (f *FS) capabilitySet(r *server.Request, name string) {
	if name != capability {
		return
	}
	if n := f.nodes.Acquire(r.Header.NodeID); n != nil {
		n.noCapability.Store(false)
		f.nodes.Release(n)
	}
}

// openMode are the flags that Open is called with. With Options.Writeback the client's kernel fills up
// parts of pages, also of a file that was opened for writing only, and knows itself where the end is.
func (f *FS) openMode(flags uint32) int {
	flags &= openFlags
	if !f.writeback.Load() {
		return int(flags)
	}
	if flags&unix.O_ACCMODE == unix.O_WRONLY {
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	return int(flags &^ unix.O_APPEND)
}

// openIn is Open. Whoever may write a file and not read it writes without the client's read-modify-write.
func (f *FS) openIn(ctx context.Context, n Node, flags uint32) (Handle, error) {
	mode := f.openMode(flags)
	h, err := Open(ctx, n, mode)
	if errors.Is(err, fs.ErrPermission) && mode&unix.O_ACCMODE != int(flags&unix.O_ACCMODE) {
		return Open(ctx, n, mode&^unix.O_ACCMODE|unix.O_WRONLY)
	}
	return h, err
}
