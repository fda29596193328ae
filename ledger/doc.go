// Package ledger keeps what a process that serves a client must leave to its successor, should it
// die: in a file in memory that both have, where the process notes each change in place before
// the client can know of it. What the client was told is in the ledger before it was told.
//
// The ledger is one sparse memfd of a fixed size, see layout.go. It has no pointers, and everything
// that is read from it is checked: the process that wrote it may have been taken over by its client.
//
// A Ledger that is nil is none: methods of what comes from it do nothing.
package ledger
