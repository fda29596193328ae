package vhostuser

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is one request with its descriptors.
type message struct {
	request  Request
	flags    uint32
	body     []byte
	fds      []int // -1 where a handler took it
	fdsLost  bool  // more were attached than we could receive
	replyFD  int   // goes with the reply, and is closed after it
	hasReply bool  // replyFD is valid
}

// takeFD hands descriptor i over to the caller; -1 when there is none.
func (m *message) takeFD(i int) int {
	if i >= len(m.fds) {
		return -1
	}
	fd := m.fds[i]
	m.fds[i] = -1
	return fd
}

// attach gives the message a descriptor to send with its reply.
func (m *message) attach(fd int) { m.replyFD, m.hasReply = fd, true }

// close closes the descriptors that nobody took.
func (m *message) close() {
	for _, fd := range m.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	m.fds = nil
	if m.hasReply {
		_ = unix.Close(m.replyFD)
		m.hasReply = false
	}
}

// answer is what a front-end waits for after a request.
type answer uint8

const (
	// ackIfAsked is nothing, or an acknowledgement if the request has FlagNeedReply.
	ackIfAsked answer = iota
	// replyBody is a body of the request's own. An empty one says that the request
	// was refused: front-ends check the size, and GET_CONFIG defines it so.
	replyBody
	// replyStatus is a number of the request's own, of which 0 is success.
	replyStatus
)

// request is a row of the table: what a message must look like before its handler
// sees it.
type request struct {
	size   int // of the body, or the least size
	max    int // the largest size, if the size varies
	fds    [2]int
	needs  ProtocolFeatures
	answer answer
	handle func(*Conn, *message) ([]byte, error)
}

// Body sizes. Those of the in-flight description differ because some front-ends
// send the C structure with the padding at its end and some the fields only.
const (
	sizeNone        = 0
	sizeU64         = int(unsafe.Sizeof(U64{}))
	sizeState       = int(unsafe.Sizeof(VringState{}))
	sizeAddr        = int(unsafe.Sizeof(VringAddr{}))
	sizeRegion      = int(unsafe.Sizeof(MemoryRegion{}))
	sizeMemory      = int(unsafe.Sizeof(MemoryHeader{}))
	sizeMemoryMax   = sizeMemory + MaxTableRegions*sizeRegion
	sizeSlot        = int(unsafe.Sizeof(SingleRegion{}))
	sizeLog         = int(unsafe.Sizeof(LogDescription{}))
	sizeConfig      = int(unsafe.Sizeof(ConfigHeader{}))
	sizeConfigMax   = sizeConfig + MaxConfigSize
	sizeInflight    = 20
	sizeInflightMax = int(unsafe.Sizeof(InflightDescription{}))
	sizeTransfer    = int(unsafe.Sizeof(TransferState{}))
)

var requests [ReqGetShmemConfig + 1]request

// The table is filled in at start-up because its handlers refer to it.
func init() {
	none, maybe, one := [2]int{}, [2]int{0, 1}, [2]int{1, 1}
	requests = [ReqGetShmemConfig + 1]request{
		ReqGetFeatures:         {sizeNone, 0, none, 0, replyBody, (*Conn).getFeatures},
		ReqSetFeatures:         {sizeU64, 0, none, 0, ackIfAsked, (*Conn).setFeatures},
		ReqSetOwner:            {sizeNone, 0, none, 0, ackIfAsked, (*Conn).setOwner},
		ReqResetOwner:          {sizeNone, 0, none, 0, ackIfAsked, (*Conn).resetOwner},
		ReqSetMemTable:         {sizeMemory, sizeMemoryMax, [2]int{0, MaxTableRegions}, 0, ackIfAsked, (*Conn).setMemTable},
		ReqSetLogBase:          {sizeLog, 0, one, ProtocolLogShmFD, replyStatus, (*Conn).setLogBase},
		ReqSetLogFD:            {sizeNone, sizeU64, one, 0, ackIfAsked, (*Conn).setLogFD},
		ReqSetVringNum:         {sizeState, 0, none, 0, ackIfAsked, (*Conn).setVringNum},
		ReqSetVringAddr:        {sizeAddr, 0, none, 0, ackIfAsked, (*Conn).setVringAddr},
		ReqSetVringBase:        {sizeState, 0, none, 0, ackIfAsked, (*Conn).setVringBase},
		ReqGetVringBase:        {sizeState, 0, none, 0, replyBody, (*Conn).getVringBase},
		ReqSetVringKick:        {sizeU64, 0, maybe, 0, ackIfAsked, (*Conn).setVringKick},
		ReqSetVringCall:        {sizeU64, 0, maybe, 0, ackIfAsked, (*Conn).setVringCall},
		ReqSetVringErr:         {sizeU64, 0, maybe, 0, ackIfAsked, (*Conn).setVringErr},
		ReqGetProtocolFeatures: {sizeNone, 0, none, 0, replyBody, (*Conn).getProtocolFeatures},
		ReqSetProtocolFeatures: {sizeU64, 0, none, 0, ackIfAsked, (*Conn).setProtocolFeatures},
		ReqGetQueueNum:         {sizeNone, 0, none, ProtocolMQ, replyBody, (*Conn).getQueueNum},
		ReqSetVringEnable:      {sizeState, 0, none, 0, ackIfAsked, (*Conn).setVringEnable},
		ReqSetBackendReqFD:     {sizeNone, 0, one, ProtocolBackendReq, ackIfAsked, (*Conn).setBackendReqFD},
		ReqGetConfig:           {sizeConfig, sizeConfigMax, none, ProtocolConfig, replyBody, (*Conn).getConfig},
		ReqSetConfig:           {sizeConfig, sizeConfigMax, none, ProtocolConfig, ackIfAsked, (*Conn).setConfig},
		ReqGetInflightFD:       {sizeInflight, sizeInflightMax, none, ProtocolInflightShmFD, replyBody, (*Conn).getInflightFD},
		ReqSetInflightFD:       {sizeInflight, sizeInflightMax, one, ProtocolInflightShmFD, ackIfAsked, (*Conn).setInflightFD},
		ReqResetDevice:         {sizeNone, 0, none, ProtocolResetDevice, ackIfAsked, (*Conn).resetDevice},
		ReqGetMaxMemSlots:      {sizeNone, 0, none, ProtocolConfigureMemSlots, replyBody, (*Conn).getMaxMemSlots},
		ReqAddMemReg:           {sizeSlot, 0, maybe, ProtocolConfigureMemSlots, ackIfAsked, (*Conn).addMemReg},
		ReqRemMemReg:           {sizeSlot, 0, maybe, ProtocolConfigureMemSlots, ackIfAsked, (*Conn).remMemReg},
		ReqSetStatus:           {sizeU64, 0, none, ProtocolStatus, ackIfAsked, (*Conn).setStatus},
		ReqGetStatus:           {sizeNone, 0, none, ProtocolStatus, replyBody, (*Conn).getStatus},
		ReqSetDeviceStateFD:    {sizeTransfer, 0, one, ProtocolDeviceState, replyStatus, (*Conn).setDeviceStateFD},
		ReqCheckDeviceState:    {sizeNone, 0, none, ProtocolDeviceState, replyStatus, (*Conn).checkDeviceState},
		ReqGetShmemConfig:      {sizeNone, 0, none, ProtocolSharedMemory, replyBody, (*Conn).getShmemConfig},
	}
}

var errUnknownRequest = errors.New("unknown request")

// lookup finds the row of a message and checks the message against it. The row is
// nil for an unknown request.
func (c *Conn) lookup(m *message) (*request, error) {
	if int64(m.request) >= int64(len(requests)) || requests[m.request].handle == nil {
		return nil, errUnknownRequest
	}
	r := &requests[m.request]
	size := len(m.body)
	switch {
	case r.needs != 0 && !c.protocol.Has(r.needs):
		return r, fmt.Errorf("needs %s, which was not negotiated", r.needs)
	case r.max == 0 && size != r.size:
		return r, fmt.Errorf("body of %d bytes, want %d", size, r.size)
	case r.max != 0 && (size < r.size || size > r.max):
		return r, fmt.Errorf("body of %d bytes, want %d to %d", size, r.size, r.max)
	case m.fdsLost:
		return r, errors.New("descriptors were lost: more than the protocol allows, or this process has too many open (raise RLIMIT_NOFILE)")
	case len(m.fds) < r.fds[0] || len(m.fds) > r.fds[1]:
		return r, fmt.Errorf("%d descriptors attached, want %d to %d", len(m.fds), r.fds[0], r.fds[1])
	}
	return r, nil
}

// body decodes the fixed front of a message, whose length the table has checked. A
// structure that is longer than the body has zeros at its end.
func body[T any](m *message) T {
	v, _ := Decode[T](m.body)
	return v
}

// reply is v as the body of a reply.
func reply[T any](v T) []byte { return Bytes(&v) }

// replyU64 is a number as the body of a reply.
func replyU64(v uint64) []byte { return reply(U64{Value: v}) }
