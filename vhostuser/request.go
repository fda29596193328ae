package vhostuser

import "golang.org/x/sys/unix"

// message is a request of the front-end while it is served, with what its handler wants
// to send with the reply.
type message struct {
	*Message
	replyFD  int  // closed after it was sent
	hasReply bool // replyFD is valid
}

// attach gives the message a descriptor to send with its reply.
func (m *message) attach(fd int) { m.replyFD, m.hasReply = fd, true }

// close closes the descriptors that no handler has taken.
func (m *message) close() {
	m.Close()
	if m.hasReply {
		_ = unix.Close(m.replyFD)
		m.hasReply = false
	}
}

// handler serves a request that has the format of the table. It returns the body of the
// reply, if there is to be one.
type handler func(*Conn, *message) ([]byte, error)

// handlers are the requests that Conn serves.
var handlers [ReqGetShmemConfig + 1]handler

// The table is filled in at start-up because its handlers refer to it.
func init() {
	handlers = [...]handler{
		ReqGetFeatures:         (*Conn).getFeatures,
		ReqSetFeatures:         (*Conn).setFeatures,
		ReqSetOwner:            (*Conn).setOwner,
		ReqResetOwner:          (*Conn).resetOwner,
		ReqSetMemTable:         (*Conn).setMemTable,
		ReqSetLogBase:          (*Conn).setLogBase,
		ReqSetLogFD:            (*Conn).setLogFD,
		ReqSetVringNum:         (*Conn).setVringNum,
		ReqSetVringAddr:        (*Conn).setVringAddr,
		ReqSetVringBase:        (*Conn).setVringBase,
		ReqGetVringBase:        (*Conn).getVringBase,
		ReqSetVringKick:        (*Conn).setVringKick,
		ReqSetVringCall:        (*Conn).setVringCall,
		ReqSetVringErr:         (*Conn).setVringErr,
		ReqGetProtocolFeatures: (*Conn).getProtocolFeatures,
		ReqSetProtocolFeatures: (*Conn).setProtocolFeatures,
		ReqGetQueueNum:         (*Conn).getQueueNum,
		ReqSetVringEnable:      (*Conn).setVringEnable,
		ReqSetBackendReqFD:     (*Conn).setBackendReqFD,
		ReqGetConfig:           (*Conn).getConfig,
		ReqSetConfig:           (*Conn).setConfig,
		ReqGetInflightFD:       (*Conn).getInflightFD,
		ReqSetInflightFD:       (*Conn).setInflightFD,
		ReqResetDevice:         (*Conn).resetDevice,
		ReqGetMaxMemSlots:      (*Conn).getMaxMemSlots,
		ReqAddMemReg:           (*Conn).addMemReg,
		ReqRemMemReg:           (*Conn).remMemReg,
		ReqSetStatus:           (*Conn).setStatus,
		ReqGetStatus:           (*Conn).getStatus,
		ReqSetDeviceStateFD:    (*Conn).setDeviceStateFD,
		ReqCheckDeviceState:    (*Conn).checkDeviceState,
		ReqGetShmemConfig:      (*Conn).getShmemConfig,
	}
}

// lookup finds the handler of a message that has the format of its request.
func (c *Conn) lookup(m *message) (handler, error) {
	if err := m.Check(c.protocol); err != nil {
		return nil, err
	}
	if int(m.Number) >= len(handlers) || handlers[m.Number] == nil {
		return nil, ErrUnknownRequest
	}
	return handlers[m.Number], nil
}

// answerKind is how the request is answered. One that we do not serve is at most
// acknowledged, as we do not know what its answer would look like.
func (m *message) answerKind() AnswerKind {
	if f := FormatOf(m.Direction, m.Number); f != nil {
		return f.Answer.Kind
	}
	return NoAnswer
}

// body decodes the fixed front of a message, whose length the table has checked. A
// structure that is longer than the body has zeros at its end.
func body[T any](m *message) T {
	v, _ := Decode[T](m.Body)
	return v
}

// reply is v as the body of a reply.
func reply[T any](v T) []byte { return Bytes(&v) }

// replyU64 is a number as the body of a reply.
func replyU64(v uint64) []byte { return reply(U64{Value: v}) }
