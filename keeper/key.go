package keeper

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind says what a descriptor is for.
type Kind uint32

// The kinds. Their numbers are part of what keeper and worker say to each other.
const (
	_              Kind = iota
	KindListener        // socket at which front-ends connect
	KindConnection      // the front-end's connection
	KindRegion          // memory of the guest
	KindKick            // eventfd by which the guest wakes up a ring's worker
	KindCall            // eventfd that tells the guest of used buffers
	KindErr             // eventfd for errors of a ring; if the keeper gives up, it adds 1 to all of them
	KindLog             // dirty log
	KindInflight        // the front-end's area of requests in flight
	KindChannel         // back-end channel, on which the device asks the front-end
	KindNode            // pin of a node
	KindOpen            // pin of an open file
	KindLock            // pin of the locks of an owner
	KindAnswer          // goes with an answer to the front-end that is being sent
	KindStream          // memory of the requests and replies of a guest that comes over vsock
	KindOutbox          // memory that messages to the front-end are sent from
	KindLedger          // ledger of one of several shares; the first one's does not go through the keeper's table
	KindAccepted        // connection that the keeper has accepted, and no worker has begun to serve
	kinds               // how many there are
)

var kindNames = [kinds]string{
	KindListener: "listener", KindConnection: "connection", KindRegion: "region", KindKick: "kick", KindCall: "call",
	KindErr: "err", KindLog: "log", KindInflight: "inflight", KindChannel: "channel",
	KindNode: "node", KindOpen: "open", KindLock: "lock", KindAnswer: "answer", KindStream: "stream", KindLedger: "shareledger", KindOutbox: "outbox",
	KindAccepted: "accepted",
}

// String is the kind's name.
func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("keeper.Kind(%d)", uint32(k))
	}
	return kindNames[k]
}

// Key names a descriptor that the keeper holds. There is one descriptor for each key.
type Key struct {
	Kind    Kind
	ID, Sub uint64 // 0 where the kind does not need them
	Share   uint16 // which of several shares it belongs to, from 0 on
}

// Of is the key of the same thing of another share.
func (k Key) Of(share int) Key {
	k.Share = uint16(share)
	return k
}

// Listener is the socket at which front-ends connect.
func Listener() Key { return Key{Kind: KindListener} }

// Connection is the front-end's connection.
func Connection() Key { return Key{Kind: KindConnection} }

// Accepted is a connection that the keeper has accepted and that is not the front-end's yet.
func Accepted() Key { return Key{Kind: KindAccepted} }

// Stream is memory for the requests and replies of a guest that comes over vsock.
func Stream() Key { return Key{Kind: KindStream} }

// Ledger is the ledger of one of several shares.
func Ledger() Key { return Key{Kind: KindLedger} }

// Node is the pin of a node: a descriptor without which it could not be found again.
func Node(id uint64) Key { return Key{Kind: KindNode, ID: id} }

// Open is the pin of an open file, by the number that the guest knows.
func Open(fh uint64) Key { return Key{Kind: KindOpen, ID: fh} }

// Lock is the pin of the open file description that has an owner's locks on a node's file.
func Lock(node, owner uint64) Key { return Key{Kind: KindLock, ID: node, Sub: owner} }

// isPin reports whether the descriptor is of a file of the share. There may be many.
func (k Kind) isPin() bool { return k == KindNode || k == KindOpen || k == KindLock }

// isWorkers reports whether a worker may have the keeper hold such a descriptor. Others are the keeper's own: a
// front-end that has taken a worker over must not have its successor listen to somebody else.
func (k Kind) isWorkers() bool {
	return k != KindListener && k != KindStream && k != KindLedger && k != KindAccepted
}

// valid reports whether a key from another process is one.
func (k Key) valid() bool { return k.Kind > 0 && k.Kind < kinds }

// String is the key as a name for a service manager: kind, ID and Sub, and Share if it is not 0.
func (k Key) String() string {
	if k.Share != 0 {
		return fmt.Sprintf("%s-%d-%d-%d", k.Kind, k.ID, k.Sub, k.Share)
	}
	return fmt.Sprintf("%s-%d-%d", k.Kind, k.ID, k.Sub)
}

// ParseKey is the reverse of String. ok is false for other names.
func ParseKey(s string) (k Key, ok bool) {
	parts := strings.Split(s, "-")
	share := uint64(0)
	var err3 error
	if len(parts) == 4 {
		share, err3 = strconv.ParseUint(parts[3], 10, 16)
		parts = parts[:3]
	}
	if len(parts) != 3 {
		return Key{}, false
	}
	for kind := Kind(1); kind < kinds; kind++ {
		if kindNames[kind] == parts[0] {
			k.Kind = kind
		}
	}
	id, err1 := strconv.ParseUint(parts[1], 10, 64)
	sub, err2 := strconv.ParseUint(parts[2], 10, 64)
	k.ID, k.Sub, k.Share = id, sub, uint16(share)
	return k, k.valid() && err1 == nil && err2 == nil && err3 == nil && k.String() == s
}
