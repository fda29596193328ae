package clientmodel

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Check compares what there is with the model: through the share, and on the host, where the share
// is the directory path. Then it closes and forgets everything, and sees that the server does not
// know it any more.
func (u *User) Check(path string) error {
	if u.err == nil {
		u.walk(u.root)
	}
	if u.err == nil {
		u.hostDir(filepath.Join(path, u.name), u.root)
	}
	if u.locker != nil && u.err == nil {
		u.checkLocks(path)
	}
	for len(u.files) > 0 && u.err == nil {
		f := u.files[0]
		if f.reads() {
			b, err := u.do(&frontend.Request{Op: fp.OpRead, NodeID: f.n.id, Read: 1 << 20}, "", wire(fp.ReadIn{Fh: f.fh, Size: 1 << 20}))
			if u.want(err, 0) {
				u.same(b, f.n.data, 0, 1<<20)
			}
		}
		_, err := u.do(&frontend.Request{Op: fp.OpRelease, NodeID: f.n.id}, "", wire(fp.ReleaseIn{Fh: f.fh}))
		u.want(err, 0)
		f.n.opens--
		u.files = u.files[1:]
	}
	for len(u.lists) > 0 && u.err == nil {
		u.readdir()
	}
	u.forgetAll()
	return u.err
}

// forgetAll forgets all that is known, those first in which nothing is known.
func (u *User) forgetAll() {
	for again := true; again && u.err == nil; {
		again = false
		for _, n := range slices.Clone(u.nodes) {
			if !n.droppable() || u.err != nil {
				continue
			}
			again = true
			if n.lookups > 1 {
				u.forgetBy(n, n.lookups-1)
				if len(n.links) > 0 {
					b, err := u.do(&frontend.Request{Op: fp.OpGetattr, NodeID: n.id, Reply: fp.Size[fp.AttrOut]()}, "", wire(fp.GetattrIn{}))
					if u.want(err, 0) {
						u.attr(n, take[fp.AttrOut](u, b).Attr)
					}
				}
			}
			if u.err == nil {
				u.forgetBy(n, 1)
			}
		}
	}
}

// walk looks at everything through the share.
func (u *User) walk(n *node) {
	if !u.know(n) {
		u.fail("%v is not known", n.links)
		return
	}
	b, err := u.do(&frontend.Request{Op: fp.OpGetattr, NodeID: n.id, Reply: fp.Size[fp.AttrOut]()}, "", wire(fp.GetattrIn{}))
	if u.want(err, 0) {
		u.attr(n, take[fp.AttrOut](u, b).Attr)
	}
	if u.opts.Xattr && (n.isDir() || n.is(unix.S_IFREG)) && u.err == nil {
		got, err := u.c.Listxattr(n.id, 4096)
		if u.want(err, 0) {
			want := slices.Sorted(maps.Keys(n.xattrs))
			got = slices.DeleteFunc(got, func(s string) bool { return !strings.HasPrefix(s, "user.") })
			if slices.Sort(got); !slices.Equal(got, want) {
				u.fail("attributes %q, want %q", got, want)
			}
		}
	}
	switch {
	case u.err != nil:
	case n.isDir():
		list, err := u.c.ReadAll(n.id, false)
		var got []string
		for _, d := range list {
			if d.Name != "." && d.Name != ".." {
				got = append(got, d.Name)
			}
		}
		if u.want(err, 0) {
			u.wantNames(got, n)
		}
		for _, name := range slices.Sorted(maps.Keys(n.kids)) {
			u.walk(n.kids[name])
		}
	case n.is(unix.S_IFREG):
		fh, err := u.c.Open(n.id, unix.O_RDONLY)
		if !u.want(err, 0) {
			return
		}
		b, err := u.c.Read(n.id, fh, 0, 1<<20)
		if u.want(err, 0) {
			u.same(b, n.data, 0, 1<<20)
		}
		u.want(u.c.Release(n.id, fh), 0)
	case n.is(unix.S_IFLNK):
		to, err := u.c.Readlink(n.id)
		if u.want(err, 0) && to != n.target {
			u.fail("a link to %q, want %q", to, n.target)
		}
	}
}

func (u *User) wantNames(got []string, n *node) {
	slices.Sort(got)
	if want := slices.Sorted(maps.Keys(n.kids)); !slices.Equal(got, want) {
		u.fail("a directory has %q, want %q", got, want)
	}
}

// hostDir compares a directory of the host.
func (u *User) hostDir(path string, n *node) {
	entries, err := os.ReadDir(path)
	if err != nil {
		u.fail("%v", err)
		return
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	u.wantNames(got, n)
	for name, kid := range n.kids {
		if u.err != nil {
			return
		}
		at := filepath.Join(path, name)
		if !u.opts.Ownership {
			if err := hostFile(at, kid); err != nil {
				u.fail("%s on the host: %v", at, err)
			}
		}
		if kid.isDir() {
			u.hostDir(at, kid)
		}
	}
}

// hostFile compares a file of the host.
func hostFile(path string, n *node) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if st.Mode != n.mode || st.Uid != n.uid || st.Gid != n.gid || uint32(st.Rdev) != n.rdev || !n.isDir() && int(st.Nlink) != len(n.links) {
		return fmt.Errorf("mode %o, owner %d:%d, device %x, links %d; want %o, %d:%d, %x, %d",
			st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink, n.mode, n.uid, n.gid, n.rdev, len(n.links))
	}
	switch {
	case n.is(unix.S_IFREG):
		if b, err := os.ReadFile(path); err != nil || string(b) != string(n.data) {
			return fmt.Errorf("%d bytes (%v), want %d others", len(b), err, len(n.data))
		}
	case n.is(unix.S_IFLNK):
		if to, err := os.Readlink(path); err != nil || to != n.target {
			return fmt.Errorf("a link to %q (%v), want %q", to, err, n.target)
		}
	}
	for name, value := range n.xattrs {
		b := make([]byte, 256)
		got, err := unix.Lgetxattr(path, name, b)
		if err != nil || string(b[:got]) != value {
			return fmt.Errorf("%s is %q (%v), want %q", name, b[:max(got, 0)], err, value)
		}
	}
	return nil
}
