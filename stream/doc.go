// Package stream carries FUSE messages over byte streams: vsock, the Unix sockets that VMMs
// have in place of vsock, or any other stream socket. It has both ends. Server passes
// requests to a fuse.Handler; Client is the end of the machine that mounts.
//
// To start on the host, make a fuse.Handler (server.New), a Server with New, and call
// Server.Serve with a listener. In the guest, call Dial, mount /dev/fuse, and call Client.Serve.
//
// # Channels
//
// A session has 2 to 5 channels. Channel 0 is for requests without a reply and for
// notifications, so that none of them waits behind data. Each other channel belongs to one
// descriptor of /dev/fuse, because the kernel takes a reply only from the descriptor that has
// read the request.
//
// A channel outlives its connections. Both sides number their messages, and keep each message until
// the other side has acknowledged it; see outbox. A connection begins with a hello and a welcome, in which
// both sides report the last message that they have received. The rest is sent again. So each request is passed to the
// Handler exactly once, and each reply reaches the kernel exactly once, as long as the guest's
// process lives. The host's process may die if there is Options.Recovery. Its successor then
// continues, and the Handler finds out by the request's fuse.Cell what was done.
//
// # Messages
//
// Requests and replies are those of FUSE, byte by byte, and begin with their length. Beside
// them there is one message in both directions, ack. It is recognised by its length and by
// opcode or error 0. On channel 0 the server sends notifications in an envelope, which says how many
// replies of each channel must have reached the kernel before.
//
// # Limits
//
// A request is counted until the guest has acknowledged the reply. It counts with its
// length, the room for its reply and the memory for its record. All requests of a channel
// together must fit in the window that the welcome announces. The Client does not read /dev/fuse
// beyond it. The Server disconnects a guest that exceeds it. So both sides always read what
// arrives.
//
// # Who may connect
//
// Options.Admit checks the address, and the hello has a token. A session is known by a random
// number that the Client makes. A connection that continues a session also needs the ticket of
// the welcome before it. So of two guests that were restored from one snapshot only one can
// continue.
//
// Sources: fs/fuse/dev.c of Linux (which descriptor takes a reply, what a read must have room
// for); docs/vsock.md of Firecracker.
package stream
