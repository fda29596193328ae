// Package dax keeps the books of a DAX window: memory of a guest into which files are
// mapped, so that the guest uses the host's page cache in place.
//
// A Window is whatever maps: a front-end behind a socket, or this process (Local). A
// Table stands in front of a Window and decides what may be asked of it.
//
// # What a Table promises
//
//   - Ranges are aligned, inside the window and do not overlap. A request that is
//     wrong, or that the window refuses, changes nothing.
//   - A range on which a request is under way is reserved. Requests for other ranges
//     go on meanwhile, those for the same range wait for it.
//   - A mapping is never replaced by way of a gap: a guest that touches the range in
//     that moment would see zeros where the file has data. What may be written later
//     should be mapped writable at once; see Table.Map.
//   - Who waits may leave. A window may not answer until the one who waits has left (a
//     VMM that stops a queue waits for the queue's requests), so the request is then
//     brought to its end in the background. What it has mapped stays for the same
//     request, which will come again, or until the range is wanted for another.
//
// # Life of a mapping
//
//	free → mapping → mapped → unmapping → free
//	          │         └─ upgrading (to writable) ─┘ back to mapped
//	          └─ refused → free
//
// A Table outlives its Window: with a new front-end it gets a new one (Attach), and all
// that was in the old one is gone.
//
// # Locks
//
// Table.mu is a leaf and is not held while a Window works.
package dax
