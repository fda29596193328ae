// Package keeper has both sides of crash recovery by two processes. The keeper is the process that
// was started: it starts workers, one after the other, and holds descriptors for them. A worker
// serves the share. When it dies, the keeper starts the next one and hands it what the dead one had.
//
// A worker hands a descriptor up with [Client.Keep], under a [Key]. It counts as soon as Keep has
// returned, also if the worker is killed in the next instruction: the message is in the keeper's
// socket by then, and the keeper reads what is in the socket before it starts the successor. The
// successor gets all descriptors in [Client.Receive], when it is in its sandbox.
//
// Keeper and worker talk over a SOCK_SEQPACKET pair, a new one for each worker. A message has a
// fixed size, a key and at most one descriptor. Neither side ever waits for the other one: a worker
// whose keeper is stopped continues to serve, and Keep fails meanwhile.
//
// The worker is not trusted, because an attacker may control it. The keeper checks the shape and
// the number of messages. It never reads, writes or maps what it holds, with one exception: when
// it gives up, it adds 1 to the error eventfds that workers have given it.
package keeper
