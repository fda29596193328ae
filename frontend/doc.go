// Package frontend is the other side: a virtio-fs driver in user space. It speaks
// vhost-user to any back-end, has its virtqueues in a memfd and a FUSE client on top.
// Tests, fuzzing and benchmarks use it in place of a virtual machine.
//
// To start, Dial the socket of a daemon, make a Client with NewClient, and call
// Client.Handshake, which is the mount.
//
//	Frontend   the vhost-user connection and the guest's memory
//	Queue      one virtqueue with its request slots
//	Client     FUSE requests as Go methods
//	Pipe       one queue driven by one thread with many requests under way, for benchmarks
//
// Everything a hostile guest could do is possible too: Queue.Descriptors and Queue.Offer
// put any bytes in a ring, Frontend.Send sends any message.
package frontend
