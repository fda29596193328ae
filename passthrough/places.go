package passthrough

import (
	"slices"
	"strings"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Backing implements server.Places: it is the device of the node's file, or of the node that has the
// name, if it is known.
func (fs *FS) Backing(nodeID uint64, name fp.Name) uint64 {
	n := fs.nodes.Get(nodeID)
	if n == nil {
		return 0
	}
	if len(name) > 0 {
		if child := fs.nodes.TryPlaced(n, name); child != nil {
			n = child
		}
	}
	return n.Key().dev
}

// maxPath bounds the names of a path in a message.
const maxPath = 64

// Path implements server.Places. The end of a path is there even if its beginning is not known.
func (fs *FS) Path(nodeID uint64) string {
	n := fs.nodes.Acquire(nodeID)
	if n == nil {
		return ""
	}
	var names []string
	for n.ID() != fp.RootID {
		parent, name, ok := fs.nodes.TryLocation(n)
		if parent == nil && ok && len(names) == 0 {
			fs.nodes.release(n)
			return "" // a file without a name
		}
		if parent == nil || len(names) == maxPath {
			if parent != nil {
				fs.nodes.release(parent)
			}
			names = append(names, "...")
			break
		}
		names = append(names, name.String())
		fs.nodes.release(n)
		n = parent
	}
	fs.nodes.release(n)
	if len(names) == 0 {
		return "."
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}
