package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// message is one request with its descriptors.
type message struct {
	request Request
	flags   uint32
	body    []byte
	fds     []int // -1 where a handler took it
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

// closeFDs closes what was not taken.
func (m *message) closeFDs() {
	for _, fd := range m.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	m.fds = nil
}

// request is a row of the table: what a message must look like before its handler
// sees it.
type request struct {
	size    int // of the body; -1 when the handler checks it
	fds     [2]int
	needs   ProtocolFeatures
	replies bool // has a reply of its own
	handle  func(*Conn, *message) ([]byte, error)
}

const (
	sizeNone   = 0
	sizeU64    = 8
	sizeState  = 8
	sizeAddr   = 40
	sizeRegion = 40
)

var requests [ReqGetShmemConfig + 1]request

// The table is filled in at start-up because its handlers refer to it.
func init() {
	requests = [ReqGetShmemConfig + 1]request{
		ReqGetFeatures:         {size: sizeNone, replies: true, handle: (*Conn).getFeatures},
		ReqSetFeatures:         {size: sizeU64, handle: (*Conn).setFeatures},
		ReqSetOwner:            {size: sizeNone, handle: (*Conn).setOwner},
		ReqResetOwner:          {size: sizeNone, handle: (*Conn).resetOwner},
		ReqSetMemTable:         {size: -1, fds: [2]int{0, MaxTableRegions}, handle: (*Conn).setMemTable},
		ReqSetLogBase:          {size: 16, fds: [2]int{1, 1}, needs: ProtocolLogShmFD, replies: true, handle: (*Conn).setLogBase},
		ReqSetLogFD:            {size: sizeNone, fds: [2]int{1, 1}, handle: (*Conn).setLogFD},
		ReqSetVringNum:         {size: sizeState, handle: (*Conn).setVringNum},
		ReqSetVringAddr:        {size: sizeAddr, handle: (*Conn).setVringAddr},
		ReqSetVringBase:        {size: sizeState, handle: (*Conn).setVringBase},
		ReqGetVringBase:        {size: sizeState, replies: true, handle: (*Conn).getVringBase},
		ReqSetVringKick:        {size: sizeU64, fds: [2]int{0, 1}, handle: (*Conn).setVringKick},
		ReqSetVringCall:        {size: sizeU64, fds: [2]int{0, 1}, handle: (*Conn).setVringCall},
		ReqSetVringErr:         {size: sizeU64, fds: [2]int{0, 1}, handle: (*Conn).setVringErr},
		ReqGetProtocolFeatures: {size: sizeNone, replies: true, handle: (*Conn).getProtocolFeatures},
		ReqSetProtocolFeatures: {size: sizeU64, handle: (*Conn).setProtocolFeatures},
		ReqGetQueueNum:         {size: sizeNone, needs: ProtocolMQ, replies: true, handle: (*Conn).getQueueNum},
		ReqSetVringEnable:      {size: sizeState, handle: (*Conn).setVringEnable},
		ReqSetBackendReqFD:     {size: sizeNone, fds: [2]int{1, 1}, needs: ProtocolBackendReq, handle: (*Conn).setBackendReqFD},
		ReqGetConfig:           {size: -1, needs: ProtocolConfig, replies: true, handle: (*Conn).getConfig},
		ReqSetConfig:           {size: -1, needs: ProtocolConfig, handle: (*Conn).setConfig},
		ReqGetInflightFD:       {size: 24, needs: ProtocolInflightShmFD, replies: true, handle: (*Conn).getInflightFD},
		ReqSetInflightFD:       {size: 24, fds: [2]int{1, 1}, needs: ProtocolInflightShmFD, handle: (*Conn).setInflightFD},
		ReqResetDevice:         {size: sizeNone, needs: ProtocolResetDevice, handle: (*Conn).resetDevice},
		ReqGetMaxMemSlots:      {size: sizeNone, needs: ProtocolConfigureMemSlots, replies: true, handle: (*Conn).getMaxMemSlots},
		ReqAddMemReg:           {size: sizeRegion, fds: [2]int{1, 1}, needs: ProtocolConfigureMemSlots, handle: (*Conn).addMemReg},
		ReqRemMemReg:           {size: sizeRegion, fds: [2]int{0, 1}, needs: ProtocolConfigureMemSlots, handle: (*Conn).remMemReg},
		ReqSetStatus:           {size: sizeU64, needs: ProtocolStatus, handle: (*Conn).setStatus},
		ReqGetStatus:           {size: sizeNone, needs: ProtocolStatus, replies: true, handle: (*Conn).getStatus},
		ReqSetDeviceStateFD:    {size: sizeState, fds: [2]int{1, 1}, needs: ProtocolDeviceState, replies: true, handle: (*Conn).setDeviceStateFD},
		ReqCheckDeviceState:    {size: sizeNone, needs: ProtocolDeviceState, replies: true, handle: (*Conn).checkDeviceState},
		ReqGetShmemConfig:      {size: sizeNone, needs: ProtocolSharedMemory, replies: true, handle: (*Conn).getShmemConfig},
	}
}

var errUnknownRequest = errors.New("unknown request")

// lookup finds the row of a message and checks the message against it.
func (c *Conn) lookup(m *message) (*request, error) {
	if int(m.request) >= len(requests) || requests[m.request].handle == nil {
		return nil, errUnknownRequest
	}
	r := &requests[m.request]
	switch {
	case r.needs != 0 && !c.protocol.Has(r.needs):
		return r, fmt.Errorf("needs %s, which was not negotiated", r.needs)
	case r.size >= 0 && len(m.body) != r.size:
		return r, fmt.Errorf("body of %d bytes, want %d", len(m.body), r.size)
	case len(m.fds) < r.fds[0] || len(m.fds) > r.fds[1]:
		return r, fmt.Errorf("%d descriptors attached, want %d to %d", len(m.fds), r.fds[0], r.fds[1])
	}
	return r, nil
}

// body decodes the fixed front of a message, whose length the table has checked.
func body[T any](m *message) T {
	v, _ := Decode[T](m.body)
	return v
}

func u64(v uint64) []byte {
	u := U64{Value: v}
	return append([]byte(nil), Bytes(&u)...)
}
