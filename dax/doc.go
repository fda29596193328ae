// Package dax records the mappings of a DAX window: memory of a guest into which files are
// mapped, so that the guest uses the host's page cache directly.
//
// A Window does the mapping: it is a front-end behind a socket, or this process (Local). A
// Table checks all requests before the Window gets them.
//
// # What a Table promises
//
//   - Ranges are aligned, inside the window, and do not overlap. A wrong request changes
//     nothing. A request that the window refuses changes nothing.
//   - The range of a request under way is reserved. Requests for the same range wait for
//     it. Requests for other ranges do not.
//   - A mapping is never unmapped in order to replace it. In the gap the guest would see
//     zeros where the file has data. So map a range writable at once if it may be written
//     later; see Table.Map.
//   - A caller may stop waiting. It has to: a VMM that stops a queue waits for the queue's
//     requests, and may not answer before they have ended. The table then completes the
//     request in the background. The mapping remains, because the guest will repeat the
//     request, until another mapping needs the range.
//
// # Life of a mapping
//
//	free → mapping → mapped → unmapping → free
//	          │         └─ upgrading (to writable) ─┘ back to mapped
//	          └─ refused → free
//
// A Table outlives its Window. With a new front-end it gets a new Window (Attach), and the
// mappings of the old one are gone.
//
// # Locks
//
// Table.mu is a leaf and is not held while a Window works.
package dax
