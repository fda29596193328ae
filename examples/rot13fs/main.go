// Rot13fs shows a directory of this machine with all names, link targets and data in ROT13, and writes
// them so: what puffs had under the same name. Twice the same is the original again.
//
//	rot13fs --mount=/mnt DIR
package main

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

// rot13FS changes what has a name or data in it.
type rot13FS struct{ server.FileSystem }

var table = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
	}
	for i := range byte(26) {
		t['a'+i], t['A'+i] = 'a'+(i+13)%26, 'A'+(i+13)%26
	}
	return t
}()

func rotate(b []byte) {
	for i, c := range b {
		b[i] = table[c]
	}
}

// rotated is a copy: the method may be called once more with the same name.
func rotated(name fp.Name) fp.Name {
	c := append(fp.Name(nil), name...)
	rotate(c)
	return c
}

func (f rot13FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.FileSystem.Lookup(r, rotated(name), out)
}
func (f rot13FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.FileSystem.Mknod(r, in, rotated(name), out)
}
func (f rot13FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.FileSystem.Mkdir(r, in, rotated(name), out)
}
func (f rot13FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return f.FileSystem.Symlink(r, rotated(name), rotated(target), out)
}
func (f rot13FS) Link(r *server.Request, in *fp.LinkIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.FileSystem.Link(r, in, rotated(name), out)
}
func (f rot13FS) Unlink(r *server.Request, name fp.Name) unix.Errno {
	return f.FileSystem.Unlink(r, rotated(name))
}
func (f rot13FS) Rmdir(r *server.Request, name fp.Name) unix.Errno {
	return f.FileSystem.Rmdir(r, rotated(name))
}
func (f rot13FS) Rename(r *server.Request, in *fp.Rename2In, from, to fp.Name) unix.Errno {
	return f.FileSystem.Rename(r, in, rotated(from), rotated(to))
}
func (f rot13FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return f.FileSystem.Create(r, in, rotated(name), out)
}

func (f rot13FS) Readlink(r *server.Request, dst []byte) (int, unix.Errno) {
	n, errno := f.FileSystem.Readlink(r, dst)
	if errno == 0 {
		rotate(dst[:n])
	}
	return n, errno
}

func (f rot13FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	errno := f.FileSystem.Readdir(r, in, out)
	return rotateNames(out, false, errno)
}

func (f rot13FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	errno := f.FileSystem.Readdirplus(r, in, out)
	return rotateNames(out, true, errno)
}

func rotateNames(out *server.DirWriter, plus bool, errno unix.Errno) unix.Errno {
	if errno == 0 {
		out.Filter(plus, func(_ *fp.EntryOut, name []byte) bool {
			rotate(name)
			return true
		})
	}
	return errno
}

// chunk is how much data is moved at once. It goes through memory of this process: the client
// sees its own memory change, and may change it meanwhile.
const chunk = 256 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

func (f rot13FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (n int, _ unix.Errno) {
	b := chunks.Get().(*[chunk]byte)
	defer chunks.Put(b)
	for part := *in; n < int(in.Size); {
		part.Size = min(in.Size-uint32(n), chunk)
		part.Offset = in.Offset + uint64(n)
		k, errno := f.FileSystem.Read(r, &part, fuse.Over(b[:part.Size]))
		if errno != 0 {
			return 0, errno // what was read can be read again
		}
		rotate(b[:k])
		n += dst.CopyFrom(b[:k], uint64(n))
		if k < int(part.Size) {
			break
		}
	}
	return n, 0
}

func (f rot13FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (n int, _ unix.Errno) {
	b := chunks.Get().(*[chunk]byte)
	defer chunks.Put(b)
	for part := *in; n < int(in.Size); {
		part.Size = min(in.Size-uint32(n), chunk)
		part.Offset = in.Offset + uint64(n)
		data := b[:src.CopyTo(b[:part.Size], uint64(n))]
		rotate(data)
		k, errno := f.FileSystem.Write(r, &part, fuse.Over(data))
		if errno != 0 && n == 0 {
			return 0, errno
		}
		if n += k; errno != 0 || k < int(part.Size) {
			break // the next WRITE says what is wrong
		}
	}
	return n, 0
}

func main() {
	p := cli.Program{Args: "DIR", NArgs: 1, New: func(args []string) (server.FileSystem, error) {
		inner, err := cli.HostDir(args[0], passthrough.CacheAuto)
		return rot13FS{inner}, err
	}}
	p.Main()
}
