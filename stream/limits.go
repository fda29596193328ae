package stream

import (
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Sizes in bytes.
const (
	// DefaultMaxWrite is the default limit for the data of a WRITE or READ. A message blocks
	// its channel while it is on the way, and the sockets of VMMs hold 64 to 256 KiB.
	DefaultMaxWrite = 128 << 10
	// maxMaxWrite is the most that Options.MaxWrite can be.
	maxMaxWrite = 1 << 20

	// head is the part of a message without data: headers, bodies, names.
	head = 8 << 10
	// minData is the least that a message has room for: the value of an extended attribute.
	minData    = 64 << 10
	minMessage = minData + head
	maxMessage = maxMaxWrite + head

	// maxUnderWay is how many requests of a channel can be under way, however small they are.
	maxUnderWay = 1000

	// windowMessages is how many of the largest requests fit in a window.
	windowMessages = 32

	// sendSize is how much is sent to vsock with one call. Newer kernels put more than 28 KiB
	// in several descriptors, which vhost-device-vsock 0.3.0 takes for an error.
	sendSize = 16 << 10
)

// messageSize is how long a message can be when a WRITE has so much data.
func messageSize(maxWrite uint32) int { return max(int(maxWrite), minData) + head }

// replyRoom is how long the reply to a request can be; 0 if there is none. b is the request,
// aligned to 8 bytes, at least as long as its header. most is the length of a message.
func replyRoom(b []byte, most int) int {
	h, body, _ := fp.View[fp.InHeader](b)
	op := fp.Opcode(h.Opcode)
	shape := op.Shape()
	if shape.NoReply {
		return 0
	}
	n := outHeaderSize + shape.Reply
	switch {
	case op == fp.OpInit:
		n = outHeaderSize + fp.Size[fp.InitOut]()
	case op == fp.OpReadlink:
		n = outHeaderSize + 4096 // PATH_MAX; the request does not say it
	case op == fp.OpGetxattr || op == fp.OpListxattr:
		n = outHeaderSize + max(op.ReplyData(body), fp.Size[fp.GetxattrOut]())
	case shape.Data&fp.FromServer != 0:
		n = max(n, outHeaderSize+max(op.ReplyData(body), 0))
	}
	return min(n, most)
}

// cost is what a request is counted with while it is under way: its bytes, the room for its reply, and its
// part of the number of requests that a window has room for. Both sides count alike.
func cost(request, room, window int) int { return request + room + window/maxUnderWay }
