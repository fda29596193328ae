package server

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxStackDepth is how many file systems may lie on each other, the client's included, less one. With
// 1 a backing file is not itself of a stacked file system (overlayfs, another FUSE with
// backing files), and something can still be stacked on the client's mount
// (fs/fuse/inode.c: process_init_reply, fs/fuse/backing.c: fuse_backing_open).
const maxStackDepth = 1

// backing is which nodes have their open files read and written by the client's kernel itself
// (FUSE_PASSTHROUGH).
//
// The kernel wants one answer for all open files of a node that exist at the same time: the same
// backing file for all, or none (fs/fuse/iomode.c: fuse_inode_uncached_io_start,
// fuse_file_io_open). So the first open decides, and the last RELEASE ends it. There are never
// more entries than the file system has open files.
type backing struct {
	mu     sync.Mutex // guards all; leaf, held across the ioctls, which do not wait
	kernel fuse.Backing
	nodes  map[uint64]backedNode
	warned bool
}

type backedNode struct {
	id    int32 // 0 is none
	opens int   // those that were not released
}

// backed is what an open has asked for.
type backed struct {
	node uint64
	id   int32
	open bool // counted in the node's entry
}

// start begins a session in which kernel is used; nil is none.
func (b *backing) start(kernel fuse.Backing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kernel, b.nodes = kernel, nil
	if kernel != nil {
		b.nodes = make(map[uint64]backedNode)
	}
}

// end lets go of all numbers. If the client is gone they are gone, too.
func (b *backing) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		if n.id != 0 {
			_ = b.kernel.CloseBacking(n.id)
		}
	}
	b.kernel, b.nodes = nil, nil
}

// enter counts an open file of the node; fd is its file on the host. It returns the number that
// the kernel knows the backing file of the node's open files by; 0 is none. first says that a
// refusal was the first in this server.
func (b *backing) enter(node uint64, fd int) (id int32, counted bool, first error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kernel == nil {
		return 0, false, nil
	}
	n, ok := b.nodes[node]
	if !ok {
		var err error
		if n.id, err = b.kernel.OpenBacking(fd); err != nil {
			n.id = 0
			if !b.warned {
				b.warned, first = true, err
			}
		}
	}
	n.opens++
	b.nodes[node] = n
	return n.id, true, first
}

// leave takes one open file off the node's.
func (b *backing) leave(node uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.nodes[node]
	if !ok {
		return
	}
	if n.opens--; n.opens > 0 {
		b.nodes[node] = n
		return
	}
	delete(b.nodes, node)
	if n.id != 0 {
		_ = b.kernel.CloseBacking(n.id)
	}
}

// Back says that fd is the file of the host behind the open file of the node which Open, Create or
// Tmpfile is about to answer with. If InitParams.Flags and the client have fp.InitPassthrough, the
// client's kernel opens that file once more, as this process and with the flags that its program
// has used, and reads, writes and maps it from then on: the file system gets no READ and WRITE of
// this open file. Otherwise nothing happens. A file system that calls it does so for each open
// file of a node, or for none. fd stays the caller's.
func (r *Request) Back(node uint64, fd int) {
	t := r.of
	if t == nil || r.backed.open || t.session == nil || t.session.flags&fp.InitPassthrough == 0 {
		return
	}
	id, counted, err := t.server.backing.enter(node, fd)
	r.backed = backed{node, id, counted}
	switch {
	case errors.Is(err, unix.EPERM):
		t.server.log.Warn("reads and writes go through this process: for FUSE_PASSTHROUGH it needs the capability CAP_SYS_ADMIN")
	case err != nil:
		t.server.log.Warn("reads and writes of a file go through this process", "error", err)
	}
}

// opened ends an open: what it has counted is taken back if the client does not get the open file.
func (t *thread) opened(out *fp.OpenOut, errno unix.Errno) unix.Errno {
	b := t.request.backed
	t.request.backed = backed{}
	switch {
	case !b.open:
	case errno != 0:
		t.server.backing.leave(b.node)
	case b.id != 0:
		// The kernel takes no others with it (fs/fuse/iomode.c: FOPEN_PASSTHROUGH_MASK). It
		// would send reads and writes here in spite of it with FOPEN_DIRECT_IO.
		out.OpenFlags = out.OpenFlags&(fp.FopenNoflush|fp.FopenParallelDirectWrites) | fp.FopenPassthrough
		out.BackingID = b.id
	}
	return errno
}

// released follows a RELEASE of a file.
func (t *thread) released(errno unix.Errno) unix.Errno {
	if t.session.flags&fp.InitPassthrough != 0 && (!waits(errno) || t.request.MayWait) {
		t.server.backing.leave(t.request.Header.NodeID)
	}
	return errno
}
