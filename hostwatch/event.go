package hostwatch

import "strings"

// Op is what has happened; several bits if the kernel has put events together. Their order is
// not known then.
type Op uint32

const (
	Created    Op = 1 << iota // a name was made: new file, directory, link
	Removed                   // a name was removed
	Moved                     // a name became another one, see Event
	Modified                  // the data of a file was changed
	Written                   // a file that was open for writing was closed
	Attributes                // mode, owner, times, extended attributes
	// Overflow says that events were lost, of any directory. Nothing else is in such an event.
	Overflow
)

var opNames = []string{"created", "removed", "moved", "modified", "written", "attributes", "overflow"}

// String is for messages: "created, modified".
func (o Op) String() string {
	var names []string
	for i, name := range opNames {
		if o>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Event is one change, or several of one name.
type Event struct {
	Op Op
	// Dir is the number of the directory, as given to Watcher.Add, and Name the name in it. An
	// empty Name is the directory itself. For Moved they are the old place; Dir is 0 if the old
	// directory is not watched.
	Dir  uint64
	Name string
	// NewDir and NewName are the new place, for Moved; NewDir is 0 if it is not watched.
	NewDir  uint64
	NewName string
	IsDir   bool // the name is, or was, a directory
}
