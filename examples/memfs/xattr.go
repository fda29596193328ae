package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Getxattr implements vfs.Xattrer.
func (n *node) Getxattr(_ context.Context, name string) ([]byte, error) {
	m := n.fs
	m.mu.RLock()
	defer m.mu.RUnlock()
	if value, ok := n.xattrs[name]; ok {
		return value, nil
	}
	return nil, unix.ENODATA
}

// Listxattr implements vfs.Xattrer.
func (n *node) Listxattr(context.Context) ([]string, error) {
	m := n.fs
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Sorted(maps.Keys(n.xattrs)), nil
}

// maxXattrs is how many bytes the extended attributes of a node may take.
const maxXattrs = 64 << 10

// Setxattr implements vfs.XattrSetter.
func (n *node) Setxattr(_ context.Context, name string, value []byte, flags int) error {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	_, there := n.xattrs[name]
	switch {
	case n.ended:
		return unix.ESTALE
	case !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "security."):
		return unix.EOPNOTSUPP // access control lists above all
	case there && flags == unix.XATTR_CREATE:
		return unix.EEXIST
	case !there && flags == unix.XATTR_REPLACE:
		return unix.ENODATA
	}
	return n.setXattr(name, append([]byte{}, value...))
}

// Removexattr implements vfs.XattrSetter.
func (n *node) Removexattr(_ context.Context, name string) error {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := n.xattrs[name]; !ok {
		return unix.ENODATA
	}
	return n.setXattr(name, nil)
}

// setXattr sets an attribute; nil removes it.
func (n *node) setXattr(name string, value []byte) error {
	size := func(value []byte, there bool) int64 {
		if !there {
			return 0
		}
		return int64(len(name)+len(value)) + 64
	}
	old, there := n.xattrs[name]
	all := size(value, value != nil)
	for name, value := range n.xattrs {
		all += int64(len(name) + len(value))
	}
	if value != nil && all > maxXattrs {
		return unix.ENOSPC
	}
	if err := n.fs.take(size(value, value != nil) - size(old, there)); err != nil {
		return err
	}
	if value == nil {
		delete(n.xattrs, name)
	} else {
		if n.xattrs == nil {
			n.xattrs = make(map[string][]byte)
		}
		n.xattrs[name] = value
	}
	n.attr.Ctime = time.Now()
	return nil
}
