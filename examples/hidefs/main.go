// Hidefs shows a directory of this machine without the files and directories whose names match a
// pattern: passwords and keys never leave the host.
//
//	hidefs --mount=/mnt DIR '*.key' .ssh '.env*'
//
// The client can neither see nor make such names. A file that it knows already, and that is renamed on
// the host, stays known to it. So does a file that has another name: hide that, too.
package main

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// hideFS hides names. Every request that has a name is here; all others need a node, which only a
// name leads to.
type hideFS struct {
	server.FileSystem
	patterns []string
}

func (h hideFS) hidden(name []byte) bool {
	for _, p := range h.patterns {
		if match, _ := path.Match(p, string(name)); match && string(name) != "." && string(name) != ".." {
			return true
		}
	}
	return false
}

func (h hideFS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if h.hidden(name.Bytes()) {
		return unix.ENOENT
	}
	return h.FileSystem.Lookup(r, name, out)
}

func (h hideFS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return h.list(r, *in, out, false, h.FileSystem.Readdir)
}

func (h hideFS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return h.list(r, *in, out, true, h.FileSystem.Readdirplus)
}

// list lists until there is a name that is not hidden, or none at all.
func (h hideFS) list(r *server.Request, in fp.ReadIn, out *server.DirWriter, plus bool, read func(*server.Request, *fp.ReadIn, *server.DirWriter) unix.Errno) unix.Errno {
	for {
		if errno := read(r, &in, out); errno != 0 {
			return errno
		}
		in.Offset = out.Filter(plus, func(e *fp.EntryOut, name []byte) bool {
			hidden := h.hidden(name)
			if hidden && e != nil && e.NodeID != 0 {
				h.Forget(r.Cell, e.NodeID, 1)
			}
			return !hidden
		})
		if in.Offset == 0 || out.Len() > 0 {
			return 0
		}
	}
}

// make is for what makes or removes a name.
func (h hideFS) make(do func() unix.Errno, names ...fp.Name) unix.Errno {
	for _, name := range names {
		if h.hidden(name.Bytes()) {
			return unix.EACCES
		}
	}
	return do()
}

func (h hideFS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Mknod(r, in, name, out) }, name)
}
func (h hideFS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Mkdir(r, in, name, out) }, name)
}
func (h hideFS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Create(r, in, name, out) }, name)
}
func (h hideFS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Symlink(r, name, target, out) }, name)
}
func (h hideFS) Link(r *server.Request, in *fp.LinkIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Link(r, in, name, out) }, name)
}
func (h hideFS) Unlink(r *server.Request, name fp.Name) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Unlink(r, name) }, name)
}
func (h hideFS) Rmdir(r *server.Request, name fp.Name) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Rmdir(r, name) }, name)
}
func (h hideFS) Rename(r *server.Request, in *fp.Rename2In, from, to fp.Name) unix.Errno {
	return h.make(func() unix.Errno { return h.FileSystem.Rename(r, in, from, to) }, from, to)
}

func main() {
	p := cli.Program{Args: "DIR PATTERN...", NArgs: 2, MaxArgs: 100, New: func(args []string) (server.FileSystem, error) {
		for _, pattern := range args[1:] {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
		}
		inner, err := cli.HostDir(args[0], passthrough.CacheAuto)
		return hideFS{inner, args[1:]}, err
	}}
	p.Main()
}
