// Package vsock is a vhost-user device for virtio-vsock: it gives a guest's AF_VSOCK sockets to
// programs of this host as Unix sockets, in the way of Firecracker and cloud-hypervisor.
//
// A connection of the guest to PORT becomes one to the Unix socket PATH_PORT. A program of the
// host connects to PATH and writes "CONNECT PORT\n"; when the guest has accepted it reads
// "OK N\n", with the number of the host's port, and what follows is the guest's.
//
// To start, make a Device with New, listen on its path with Device.Listen, and serve front-ends
// with vhostuser.NewConn.
//
// # Shape
//
// The queue of packets from the guest has a goroutine that takes each packet at once: a
// connection has room for all that the guest may send (buf_alloc), so nothing waits for a
// program of the host. Each connection has a goroutine that writes to its Unix socket and one that
// reads from it. The queue of packets to the guest has a goroutine that fills buffers of the
// guest's as they come.
//
// # Limits
//
// A guest has at most 1023 connections, and each keeps at most 64 KiB in each direction. Packets
// that belong to no connection are answered as far as the guest takes the answers. What a guest
// does against the protocol costs it the connection.
//
// There is no state to transfer: a guest that moves loses its connections, as the
// specification says. Only stream sockets are supported.
//
// Sources: virtio 1.3, 5.10; docs/vsock.md of Firecracker and of cloud-hypervisor.
package vsock
