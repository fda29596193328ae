package ledger

import "github.com/govirtiofs/govirtiofs/fuse"

// Version is that of the layout. A process reads a ledger if its version is between
// OldestVersion and Version of that process.
const (
	Version       = 2
	OldestVersion = 2
)

const magic = "govirtiofs ledger\x00\x00\x00"

// Limits of a ledger. The file has room for all of it from the start, and takes memory only for
// what was used.
const (
	MaxQueues    = 256
	MaxQueueSize = 32768
	MaxNodes     = 1 << 28 // slots, as in package nodes
	MaxOpens     = 1 << 24 // slots
	MaxMappings  = 1 << 15 // units of a DAX window
)

// header is the first page.
type header struct {
	magic   [20]byte
	version uint32
	oldest  uint32 // version that can read it
	cell    uint32 // sizes of records, in bytes
	_       uint32
	size    uint64 // of the file

	generation uint64 // of the process that writes it, from 1 on
	ended      uint32 // the process has ended in order, or is about to
	serving    uint32 // the process has taken over all that its predecessor left

	// More sizes of records, and what was ever given out: one more than the largest slot, and
	// the largest generation, of nodes and of open files.
	node, open                uint32
	nodesEnd, nodesGeneration uint32
	opensEnd, opensGeneration uint32
	unplaced                  uint64 // places of nodes that there was no room for

	owner uint32 // see Ledger.Owner
}

const pageSize = 4096

// Sections of the file, one behind the other.
const (
	headerAt = 0
	areasAt  = headerAt + pageSize
	queuesAt = areasAt + int64(numAreas)*areaStride
	cellsAt  = queuesAt + MaxQueues*queueSize
	listsAt  = (cellsAt + MaxQueues*MaxQueueSize*int64(fuse.CellSize) + pageSize - 1) / pageSize * pageSize
	opensAt  = listsAt + numLists*listSize
	ownersAt = opensAt + MaxOpens*openSize
	locksAt  = ownersAt + MaxLockOwners*lockOwnerSize
	nodesAt  = locksAt + MaxLocks*lockSize
	namesAt  = nodesAt + MaxNodes*nodeSize
	windowAt = namesAt + namesSize
	fileSize = windowAt + pageSize + MaxMappings*mappingSize
)

// namesSize is of all classes of names, see nameClasses.
const namesSize = 32<<28 + 64<<28 + 128<<26 + 256<<25 + 512<<24
