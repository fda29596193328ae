// Package vhostuser is the back-end side of the vhost-user protocol: a Conn reads
// a front-end's messages, keeps the state of memory and rings, and starts and stops
// the queues of a Device. The messages themselves are for both sides.
//
// To start, implement Device and call NewConn and Conn.Serve for each connection. Package
// virtiofs has a Device; only another kind of device needs this package.
//
// Titles in comments are those of QEMU's docs/interop/vhost-user.rst.
//
// # Messages
//
// A Socket sends and receives a Message with its descriptors, in both directions and
// on both sides. The message table (FormatOf) has a row for each request: its name, the
// size of its body, the number of its descriptors, the feature that it needs and how it
// is answered. Message.Check compares a request with its row, and Message.CheckReply an
// answer. Package frontend has no others.
//
// # Life of a connection
//
// Serve reads one message after the other. What does not fit the message table is refused
// without reaching a handler, and the connection lives on. Only framing that can't be
// followed ends it: a wrong version, a body larger than any that is defined.
//
//	bytes, descriptors -> Socket.Receive -> Message.Check -> handler -> answer
//	                      framing           table            state      reply or acknowledgement
//
// A ring runs when it has a size, addresses and a kick descriptor, is enabled, and
// its memory is there. The Device then owns it until StopQueue returns. While it
// runs, only the call and error descriptors, the dirty log, and memory of other
// regions are changed. A queue uses the new memory from its next batch on.
//
// The guest's session is not tied to rings. ENABLE 0, GET_VRING_BASE and SET_STATUS 0
// come for a guest that is paused, too, and only stop queues; RESET_DEVICE also calls
// Device.Reset.
//
// # Goroutines
//
//   - Serve's reads the control socket and makes all calls of Device. It waits for
//     nothing but StopQueue and the front-end's CHECK_DEVICE_STATE.
//   - The back-end channel has a reader, which hands out the answers to our own
//     requests. Those who wait for one let go when a ring is stopped.
//   - A transfer of the device's state has one while it lasts.
//
// None is left when Serve returns.
//
// # Descriptors and mappings
//
// A message owns the descriptors that came with it until a handler takes one; what
// is left is closed with the message. Files of memory, logs and in-flight areas are
// closed as soon as they are mapped. Kick, call and error descriptors are a ring's,
// and closed with its successor or when Serve returns. A region of memory is
// unmapped when the last user of a virtqueue.Memory that holds it is gone.
package vhostuser
