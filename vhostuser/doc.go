// Package vhostuser is the back-end side of the vhost-user protocol: a Conn reads
// a front-end's messages, keeps the state of memory and rings, and starts and stops
// the queues of a Device.
//
// # Life of a connection
//
// Serve reads one message after the other on one goroutine. A row of the request
// table says what a message may look like; what does not fit is refused without
// reaching a handler, and the connection lives on. Only framing that can't be
// followed ends it. A second goroutine reads the replies of the front-end to our own
// requests on the back-end channel, so that waiting for one never stops the first.
//
// A ring runs when it has a size, addresses and a kick descriptor and is enabled.
// The Device then owns it until StopQueue returns. Only the call and error
// descriptors and the dirty log are changed while it runs.
//
// # Descriptors
//
// A message owns the descriptors that came with it until a handler takes one; what
// is left is closed. Conn closes kick, call and error descriptors and unmaps all
// memory before Serve returns.
package vhostuser
