package frontend

import (
	"bytes"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Handshake sends INIT with the flags offered.
func (c *Client) Handshake(flags fp.InitFlags) error {
	in := fp.InitIn{Major: fp.KernelVersion, Minor: fp.KernelMinorVersion, MaxReadahead: 128 << 10,
		Flags: uint32(flags | fp.InitExt), Flags2: uint32(flags >> 32)}
	out, err := reply[fp.InitOut](c.Do(&Request{Op: fp.OpInit, Body: bytesOf(in), Reply: fp.Size[fp.InitOut]()}))
	c.Init = out
	return err
}

// AllFlags are what a Linux 7.2 guest offers.
const AllFlags = fp.InitAsyncRead | fp.InitPosixLocks | fp.InitAtomicOTrunc | fp.InitBigWrites | fp.InitDontMask |
	fp.InitFlockLocks | fp.InitHasIoctlDir | fp.InitAutoInvalData | fp.InitDoReaddirplus | fp.InitReaddirplusAuto |
	fp.InitAsyncDIO | fp.InitWritebackCache | fp.InitParallelDirops | fp.InitPosixACL | fp.InitMaxPages |
	fp.InitCacheSymlinks | fp.InitSubmounts | fp.InitHandleKillprivV2 | fp.InitSetxattrExt | fp.InitCreateSuppGroup |
	fp.InitSecurityCtx | fp.InitDirectIOAllowMmap | fp.InitNoExportSupport | fp.InitAllowIdmap

// Destroy ends the session.
func (c *Client) Destroy() error {
	_, err := c.Do(&Request{Op: fp.OpDestroy})
	return err
}

func (c *Client) entry(op fp.Opcode, node uint64, parts ...any) (fp.EntryOut, error) {
	return reply[fp.EntryOut](c.Do(&Request{Op: op, NodeID: node, Body: body(parts...), Reply: fp.Size[fp.EntryOut]()}))
}

// Lookup finds a name in a directory.
func (c *Client) Lookup(dir uint64, name string) (fp.EntryOut, error) {
	return c.entry(fp.OpLookup, dir, name)
}

// Forget goes over the high-priority queue, like a Linux guest's.
func (c *Client) Forget(node, n uint64) error {
	_, err := c.DoOn(c.Queues[0], &Request{Op: fp.OpForget, NodeID: node, Body: bytesOf(fp.ForgetIn{NLookup: n}), Reply: -1})
	return err
}

// Getattr reads attributes.
func (c *Client) Getattr(node uint64) (fp.Attr, error) {
	out, err := reply[fp.AttrOut](c.Do(&Request{Op: fp.OpGetattr, NodeID: node, Body: bytesOf(fp.GetattrIn{}), Reply: fp.Size[fp.AttrOut]()}))
	return out.Attr, err
}

// Setattr changes attributes.
func (c *Client) Setattr(node uint64, in fp.SetattrIn) (fp.Attr, error) {
	out, err := reply[fp.AttrOut](c.Do(&Request{Op: fp.OpSetattr, NodeID: node, Body: bytesOf(in), Reply: fp.Size[fp.AttrOut]()}))
	return out.Attr, err
}

// Mkdir, Mknod, Symlink and Link make names.
func (c *Client) Mkdir(dir uint64, name string, mode uint32) (fp.EntryOut, error) {
	return c.entry(fp.OpMkdir, dir, bytesOf(fp.MkdirIn{Mode: mode}), name)
}

// Mknod makes a file of any kind.
func (c *Client) Mknod(dir uint64, name string, mode, rdev uint32) (fp.EntryOut, error) {
	return c.entry(fp.OpMknod, dir, bytesOf(fp.MknodIn{Mode: mode, Rdev: rdev}), name)
}

// Symlink makes a symbolic link.
func (c *Client) Symlink(dir uint64, name, target string) (fp.EntryOut, error) {
	return c.entry(fp.OpSymlink, dir, name, target)
}

// Link makes another name of a file.
func (c *Client) Link(node, dir uint64, name string) (fp.EntryOut, error) {
	return c.entry(fp.OpLink, dir, bytesOf(fp.LinkIn{OldNodeID: node}), name)
}

// Unlink removes a file's name.
func (c *Client) Unlink(dir uint64, name string) error {
	_, err := c.Do(&Request{Op: fp.OpUnlink, NodeID: dir, Body: body(name)})
	return err
}

// Rmdir removes a directory.
func (c *Client) Rmdir(dir uint64, name string) error {
	_, err := c.Do(&Request{Op: fp.OpRmdir, NodeID: dir, Body: body(name)})
	return err
}

// Rename moves a name; flags other than 0 need RENAME2.
func (c *Client) Rename(dir uint64, name string, newDir uint64, newName string, flags uint32) error {
	r := &Request{Op: fp.OpRename2, NodeID: dir, Body: body(bytesOf(fp.Rename2In{NewDir: newDir, Flags: flags}), name, newName)}
	if flags == 0 {
		r.Op, r.Body = fp.OpRename, body(bytesOf(fp.RenameIn{NewDir: newDir}), name, newName)
	}
	_, err := c.Do(r)
	return err
}

// Readlink reads a symbolic link's target.
func (c *Client) Readlink(node uint64) (string, error) {
	b, err := c.Do(&Request{Op: fp.OpReadlink, NodeID: node, Reply: 4096})
	return string(b), err
}

// Open opens a file; the number is its fh.
func (c *Client) Open(node uint64, flags uint32) (uint64, error) {
	out, err := reply[fp.OpenOut](c.Do(&Request{Op: fp.OpOpen, NodeID: node, Body: bytesOf(fp.OpenIn{Flags: flags}), Reply: fp.Size[fp.OpenOut]()}))
	return out.Fh, err
}

// Opendir opens a directory; the number is its fh.
func (c *Client) Opendir(node uint64) (uint64, error) {
	out, err := reply[fp.OpenOut](c.Do(&Request{Op: fp.OpOpendir, NodeID: node, Body: bytesOf(fp.OpenIn{}), Reply: fp.Size[fp.OpenOut]()}))
	return out.Fh, err
}

// Create makes and opens a file.
func (c *Client) Create(dir uint64, name string, flags, mode uint32, groups ...uint32) (fp.CreateOut, error) {
	return reply[fp.CreateOut](c.Do(&Request{Op: fp.OpCreate, NodeID: dir, Groups: groups,
		Body: body(bytesOf(fp.CreateIn{Flags: flags, Mode: mode}), name), Reply: fp.Size[fp.CreateOut]()}))
}

// Tmpfile makes a file without a name.
func (c *Client) Tmpfile(dir uint64, flags, mode uint32) (fp.CreateOut, error) {
	return reply[fp.CreateOut](c.Do(&Request{Op: fp.OpTmpfile, NodeID: dir,
		Body: body(bytesOf(fp.CreateIn{Flags: flags, Mode: mode}), "/"), Reply: fp.Size[fp.CreateOut]()}))
}

// Release closes a file, Releasedir a directory.
func (c *Client) Release(node, fh uint64) error {
	_, err := c.Do(&Request{Op: fp.OpRelease, NodeID: node, Body: bytesOf(fp.ReleaseIn{Fh: fh})})
	return err
}

// Releasedir closes a directory.
func (c *Client) Releasedir(node, fh uint64) error {
	_, err := c.Do(&Request{Op: fp.OpReleasedir, NodeID: node, Body: bytesOf(fp.ReleaseIn{Fh: fh})})
	return err
}

// Read reads up to size bytes.
func (c *Client) Read(node, fh, off uint64, size int) ([]byte, error) {
	return c.Do(&Request{Op: fp.OpRead, NodeID: node, Body: bytesOf(fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}), Read: size})
}

// Write writes data.
func (c *Client) Write(node, fh, off uint64, data []byte) (int, error) {
	out, err := reply[fp.WriteOut](c.Do(&Request{Op: fp.OpWrite, NodeID: node, Data: data,
		Body: bytesOf(fp.WriteIn{Fh: fh, Offset: off, Size: uint32(len(data))}), Reply: fp.Size[fp.WriteOut]()}))
	return int(out.Size), err
}

// Dirent is an entry of a listing.
type Dirent struct {
	fp.Dirent
	Name  string
	Entry fp.EntryOut // READDIRPLUS
}

// Readdir reads one reply of a listing, with attributes if plus is set.
func (c *Client) Readdir(node, fh, off uint64, size int, plus bool) ([]Dirent, error) {
	r := &Request{Op: fp.OpReaddir, NodeID: node, Body: bytesOf(fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}), Read: size}
	if plus {
		r.Op = fp.OpReaddirplus
	}
	b, err := c.Do(r)
	var list []Dirent
	for len(b) > 0 && err == nil {
		var d Dirent
		if plus {
			e, rest, _ := fp.View[fp.EntryOut](b)
			d.Entry, b = *e, rest
		}
		h, rest, _ := fp.View[fp.Dirent](b)
		d.Dirent = *h
		d.Name = string(rest[:h.NameLen])
		list = append(list, d)
		b = b[fp.DirentAlign(fp.Size[fp.Dirent]()+int(h.NameLen)):]
	}
	return list, err
}

// ReadAll lists a directory.
func (c *Client) ReadAll(node uint64, plus bool) (list []Dirent, err error) {
	fh, err := c.Opendir(node)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Releasedir(node, fh) }()
	for off := uint64(0); ; {
		part, err := c.Readdir(node, fh, off, 64<<10, plus)
		if err != nil || len(part) == 0 {
			return list, err
		}
		list = append(list, part...)
		off = part[len(part)-1].Off
	}
}

// Statfs asks about the file system.
func (c *Client) Statfs(node uint64) (fp.Kstatfs, error) {
	return reply[fp.Kstatfs](c.Do(&Request{Op: fp.OpStatfs, NodeID: node, Reply: fp.Size[fp.StatfsOut]()}))
}

// Statx asks for extended attributes of a node.
func (c *Client) Statx(node uint64) (fp.Statx, error) {
	out, err := reply[fp.StatxOut](c.Do(&Request{Op: fp.OpStatx, NodeID: node, Body: bytesOf(fp.StatxIn{SxMask: 0xfff}), Reply: fp.Size[fp.StatxOut]()}))
	return out.Stat, err
}

// Flush is a close(2) of one of the owner's descriptors.
func (c *Client) Flush(node, fh, owner uint64) error {
	_, err := c.Do(&Request{Op: fp.OpFlush, NodeID: node, Body: bytesOf(fp.FlushIn{Fh: fh, LockOwner: owner})})
	return err
}

// Fsync writes a file to its disk.
func (c *Client) Fsync(node, fh uint64) error {
	_, err := c.Do(&Request{Op: fp.OpFsync, NodeID: node, Body: bytesOf(fp.FsyncIn{Fh: fh})})
	return err
}

// Lock is SETLK, or SETLKW when wait is set.
func (c *Client) Lock(node, fh, owner uint64, lk fp.FileLock, flags uint32, wait bool) error {
	r := &Request{Op: fp.OpSetlk, NodeID: node, Body: bytesOf(fp.LkIn{Fh: fh, Owner: owner, Lk: lk, LkFlags: flags})}
	if wait {
		r.Op = fp.OpSetlkw
	}
	_, err := c.Do(r)
	return err
}

// Getlk asks which lock is in the way.
func (c *Client) Getlk(node, fh, owner uint64, lk fp.FileLock) (fp.FileLock, error) {
	out, err := reply[fp.LkOut](c.Do(&Request{Op: fp.OpGetlk, NodeID: node, Body: bytesOf(fp.LkIn{Fh: fh, Owner: owner, Lk: lk}), Reply: fp.Size[fp.LkOut]()}))
	return out.Lk, err
}

// Getxattr reads an extended attribute of up to size bytes.
func (c *Client) Getxattr(node uint64, name string, size int) ([]byte, error) {
	return c.Do(&Request{Op: fp.OpGetxattr, NodeID: node, Body: body(bytesOf(fp.GetxattrIn{Size: uint32(size)}), name), Reply: max(size, 8)})
}

// Setxattr sets an extended attribute; ext when SETXATTR_EXT was agreed.
func (c *Client) Setxattr(node uint64, name string, value []byte, ext bool) error {
	in := bytesOf(fp.SetxattrIn{Size: uint32(len(value))})
	if !ext {
		in = in[:fp.CompatSetxattrInSize]
	}
	_, err := c.Do(&Request{Op: fp.OpSetxattr, NodeID: node, Body: body(in, name, value)})
	return err
}

// Listxattr lists names.
func (c *Client) Listxattr(node uint64, size int) ([]string, error) {
	b, err := c.Do(&Request{Op: fp.OpListxattr, NodeID: node, Body: bytesOf(fp.GetxattrIn{Size: uint32(size)}), Reply: size})
	var names []string
	for _, n := range bytes.Split(bytes.TrimRight(b, "\x00"), []byte{0}) {
		if len(n) > 0 {
			names = append(names, string(n))
		}
	}
	return names, err
}

// Removexattr removes one.
func (c *Client) Removexattr(node uint64, name string) error {
	_, err := c.Do(&Request{Op: fp.OpRemovexattr, NodeID: node, Body: body(name)})
	return err
}

// Lseek finds data or holes.
func (c *Client) Lseek(node, fh, off uint64, whence uint32) (uint64, error) {
	out, err := reply[fp.LseekOut](c.Do(&Request{Op: fp.OpLseek, NodeID: node, Body: bytesOf(fp.LseekIn{Fh: fh, Offset: off, Whence: whence}), Reply: fp.Size[fp.LseekOut]()}))
	return out.Offset, err
}

// Fallocate allocates or punches.
func (c *Client) Fallocate(node, fh, off, length uint64, mode uint32) error {
	_, err := c.Do(&Request{Op: fp.OpFallocate, NodeID: node, Body: bytesOf(fp.FallocateIn{Fh: fh, Offset: off, Length: length, Mode: mode})})
	return err
}

// CopyFileRange copies within the share.
func (c *Client) CopyFileRange(in fp.CopyFileRangeIn, node uint64) (uint64, error) {
	out, err := reply[fp.CopyFileRangeOut](c.Do(&Request{Op: fp.OpCopyFileRange64, NodeID: node, Body: bytesOf(in), Reply: fp.Size[fp.CopyFileRangeOut]()}))
	return out.BytesCopied, err
}

// Ioctl sends an ioctl with data and room for size bytes.
func (c *Client) Ioctl(node, fh uint64, cmd uint32, data []byte, size int) ([]byte, error) {
	b, err := c.Do(&Request{Op: fp.OpIoctl, NodeID: node, Reply: fp.Size[fp.IoctlOut]() + size,
		Body: body(bytesOf(fp.IoctlIn{Fh: fh, Cmd: cmd, InSize: uint32(len(data)), OutSize: uint32(size)}), data)})
	if err != nil {
		return nil, err
	}
	return b[fp.Size[fp.IoctlOut]():], nil
}
