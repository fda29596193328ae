// Package virtiofs is the virtio file system device (virtio 1.2, section 5.11):
// it joins the vhost-user protocol, the virtqueues and a fuse.Handler.
//
// To start, make a Handler (server.New), a Device of it (New), listen on a Unix socket and
// give each connection of a VMM to Device.Serve.
//
// A Device has one high-priority queue, number 0, for FORGET and INTERRUPT, and
// one or more request queues. Each running queue has a worker: one goroutine
// locked to one operating system thread, which alone touches the ring. Nothing
// between a kick and a reply takes a lock.
//
// A request that has to wait leaves the worker (fuse.Pending). Its chain and a
// reference on guest memory stay with it; when it is done the worker puts the
// chain in the used ring. A queue that is stopped first waits for its waiting
// requests, after it has cancelled those that can be.
//
// Stopping the queues does not end the guest's session: a paused guest continues
// without a new INIT. A guest that was rebooted sends INIT again; see
// fuse.Session. The end of the connection ends the session: the next front-end starts
// with nothing.
package virtiofs
