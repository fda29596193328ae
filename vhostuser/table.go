package vhostuser

import (
	"errors"
	"fmt"
	"unsafe"
)

// Direction says which side sends a request. Each direction has a socket of its own, and
// its own numbers. The reply goes the other way on the same socket.
type Direction uint8

const (
	// ToBackend are the front-end's requests, on the socket by which it has connected.
	ToBackend Direction = iota
	// ToFrontend are the back-end's requests, on the socket of SET_BACKEND_REQ_FD.
	ToFrontend
)

// AnswerKind is what the sender of a request waits for.
type AnswerKind uint8

const (
	// NoAnswer is that of requests which neither side of this module uses: the table has
	// only their names.
	NoAnswer AnswerKind = iota
	// AckIfAsked is nothing, or an acknowledgement if the request has FlagNeedReply and
	// ProtocolReplyAck was negotiated. An acknowledgement is a U64, of which 0 is success.
	AckIfAsked
	// ReplyBody is a body of the request's own. An empty one, without descriptors, says
	// that the request was refused: front-ends check the size, and GET_CONFIG defines it so.
	ReplyBody
	// ReplyStatus is a U64 of the request's own. In its lowest byte 0 is success.
	ReplyStatus
)

// Range is the least and the largest of a number of bytes, or of descriptors.
type Range struct{ Min, Max int }

// Has reports whether n is in the range.
func (r Range) Has(n int) bool { return n >= r.Min && n <= r.Max }

// String is "8", or "20 to 24".
func (r Range) String() string {
	if r.Min == r.Max {
		return fmt.Sprint(r.Min)
	}
	return fmt.Sprintf("%d to %d", r.Min, r.Max)
}

// Answer is what the answer to a request looks like.
type Answer struct {
	Kind AnswerKind
	Body Range // in bytes
	FDs  Range // descriptors
}

// Format is a row of the message table: what a request looks like, and its answer.
type Format struct {
	Name   string // the specification's, without VHOST_USER_
	Body   Range  // in bytes
	FDs    Range  // descriptors
	Needs  ProtocolFeatures
	Answer Answer
}

// sizeOf is the size of a body that is a T.
func sizeOf[T any]() Range {
	n := int(unsafe.Sizeof(*new(T)))
	return Range{n, n}
}

// Sizes of bodies, and numbers of descriptors.
var (
	noBody     Range
	oneU64     = sizeOf[U64]()
	ringState  = sizeOf[VringState]()
	oneRegion  = sizeOf[SingleRegion]()
	regionList = Range{sizeMemory, sizeMemory + MaxTableRegions*sizeRegion}
	configBody = Range{sizeConfig, sizeConfig + MaxConfigSize}
	// Some front-ends send the C structure with the padding at its end, and some the
	// fields only.
	inflightBody = Range{20, sizeOf[InflightDescription]().Max}

	noFD    Range
	maybeFD = Range{0, 1}
	oneFD   = Range{1, 1}
)

// Answers.
var (
	ack    = Answer{AckIfAsked, oneU64, noFD}
	number = Answer{ReplyBody, oneU64, noFD}
	status = Answer{ReplyStatus, oneU64, noFD}
)

// Sizes that bodies are made of.
var (
	sizeMemory = sizeOf[MemoryHeader]().Max
	sizeRegion = sizeOf[MemoryRegion]().Max
	sizeConfig = sizeOf[ConfigHeader]().Max
)

// formats is the message table, by direction and number.
var formats = [...][]Format{ToBackend: {
	ReqGetFeatures:         {"GET_FEATURES", noBody, noFD, 0, number},
	ReqSetFeatures:         {"SET_FEATURES", oneU64, noFD, 0, ack},
	ReqSetOwner:            {"SET_OWNER", noBody, noFD, 0, ack},
	ReqResetOwner:          {"RESET_OWNER", noBody, noFD, 0, ack},
	ReqSetMemTable:         {"SET_MEM_TABLE", regionList, Range{0, MaxTableRegions}, 0, ack},
	ReqSetLogBase:          {"SET_LOG_BASE", sizeOf[LogDescription](), oneFD, ProtocolLogShmFD, status},
	ReqSetLogFD:            {"SET_LOG_FD", Range{0, oneU64.Max}, oneFD, 0, ack},
	ReqSetVringNum:         {"SET_VRING_NUM", ringState, noFD, 0, ack},
	ReqSetVringAddr:        {"SET_VRING_ADDR", sizeOf[VringAddr](), noFD, 0, ack},
	ReqSetVringBase:        {"SET_VRING_BASE", ringState, noFD, 0, ack},
	ReqGetVringBase:        {"GET_VRING_BASE", ringState, noFD, 0, Answer{ReplyBody, ringState, noFD}},
	ReqSetVringKick:        {"SET_VRING_KICK", oneU64, maybeFD, 0, ack},
	ReqSetVringCall:        {"SET_VRING_CALL", oneU64, maybeFD, 0, ack},
	ReqSetVringErr:         {"SET_VRING_ERR", oneU64, maybeFD, 0, ack},
	ReqGetProtocolFeatures: {"GET_PROTOCOL_FEATURES", noBody, noFD, 0, number},
	ReqSetProtocolFeatures: {"SET_PROTOCOL_FEATURES", oneU64, noFD, 0, ack},
	ReqGetQueueNum:         {"GET_QUEUE_NUM", noBody, noFD, ProtocolMQ, number},
	ReqSetVringEnable:      {"SET_VRING_ENABLE", ringState, noFD, 0, ack},
	ReqSendRARP:            {Name: "SEND_RARP"},
	ReqNetSetMTU:           {Name: "NET_SET_MTU"},
	ReqSetBackendReqFD:     {"SET_BACKEND_REQ_FD", noBody, oneFD, ProtocolBackendReq, ack},
	ReqIOTLBMsg:            {Name: "IOTLB_MSG"},
	ReqSetVringEndian:      {Name: "SET_VRING_ENDIAN"},
	ReqGetConfig:           {"GET_CONFIG", configBody, noFD, ProtocolConfig, Answer{ReplyBody, configBody, noFD}},
	ReqSetConfig:           {"SET_CONFIG", configBody, noFD, ProtocolConfig, ack},
	ReqCreateCryptoSession: {Name: "CREATE_CRYPTO_SESSION"},
	ReqCloseCryptoSession:  {Name: "CLOSE_CRYPTO_SESSION"},
	ReqPostcopyAdvise:      {Name: "POSTCOPY_ADVISE"},
	ReqPostcopyListen:      {Name: "POSTCOPY_LISTEN"},
	ReqPostcopyEnd:         {Name: "POSTCOPY_END"},
	ReqGetInflightFD:       {"GET_INFLIGHT_FD", inflightBody, noFD, ProtocolInflightShmFD, Answer{ReplyBody, inflightBody, oneFD}},
	ReqSetInflightFD:       {"SET_INFLIGHT_FD", inflightBody, oneFD, ProtocolInflightShmFD, ack},
	ReqGPUSetSocket:        {Name: "GPU_SET_SOCKET"},
	ReqResetDevice:         {"RESET_DEVICE", noBody, noFD, ProtocolResetDevice, ack},
	ReqVringKick:           {Name: "VRING_KICK"},
	ReqGetMaxMemSlots:      {"GET_MAX_MEM_SLOTS", noBody, noFD, ProtocolConfigureMemSlots, number},
	ReqAddMemReg:           {"ADD_MEM_REG", oneRegion, maybeFD, ProtocolConfigureMemSlots, ack},
	ReqRemMemReg:           {"REM_MEM_REG", oneRegion, maybeFD, ProtocolConfigureMemSlots, ack},
	ReqSetStatus:           {"SET_STATUS", oneU64, noFD, ProtocolStatus, ack},
	ReqGetStatus:           {"GET_STATUS", noBody, noFD, ProtocolStatus, number},
	ReqGetSharedObject:     {Name: "GET_SHARED_OBJECT"},
	ReqSetDeviceStateFD:    {"SET_DEVICE_STATE_FD", sizeOf[TransferState](), oneFD, ProtocolDeviceState, Answer{ReplyStatus, oneU64, maybeFD}},
	ReqCheckDeviceState:    {"CHECK_DEVICE_STATE", noBody, noFD, ProtocolDeviceState, status},
	ReqGetShmemConfig:      {"GET_SHMEM_CONFIG", noBody, noFD, ProtocolSharedMemory, Answer{ReplyBody, sizeOf[SharedMemoryConfig](), noFD}},
}, ToFrontend: {
	BackendIOTLBMsg:           {Name: "BACKEND_IOTLB_MSG"},
	BackendConfigChange:       {"BACKEND_CONFIG_CHANGE_MSG", noBody, noFD, ProtocolConfig, ack},
	BackendVringHostNotifier:  {Name: "BACKEND_VRING_HOST_NOTIFIER_MSG"},
	BackendVringCall:          {Name: "BACKEND_VRING_CALL"},
	BackendVringErr:           {Name: "BACKEND_VRING_ERR"},
	BackendSharedObjectAdd:    {Name: "BACKEND_SHARED_OBJECT_ADD"},
	BackendSharedObjectRemove: {Name: "BACKEND_SHARED_OBJECT_REMOVE"},
	BackendSharedObjectLookup: {Name: "BACKEND_SHARED_OBJECT_LOOKUP"},
	BackendShmemMap:           {"BACKEND_SHMEM_MAP", sizeOf[SharedMemoryMap](), oneFD, ProtocolSharedMemory, ack},
	BackendShmemUnmap:         {"BACKEND_SHMEM_UNMAP", sizeOf[SharedMemoryMap](), noFD, ProtocolSharedMemory, ack},
}}

// FormatOf is the row of a request; nil if the table has no such number.
func FormatOf(d Direction, number uint32) *Format {
	if rows := formats[d]; uint64(number) < uint64(len(rows)) && rows[number].Name != "" {
		return &rows[number]
	}
	return nil
}

// String returns the specification's name without its prefix.
func (r Request) String() string { return nameOf(ToBackend, uint32(r)) }

// String returns the specification's name without its prefix.
func (r BackendRequest) String() string { return nameOf(ToFrontend, uint32(r)) }

func nameOf(d Direction, number uint32) string {
	if f := FormatOf(d, number); f != nil {
		return f.Name
	}
	if d == ToFrontend {
		return fmt.Sprintf("back-end request %d", number)
	}
	return fmt.Sprintf("request %d", number)
}

// ErrUnknownRequest is what Message.Check says of a request without a format.
var ErrUnknownRequest = errors.New("unknown request")

// Check compares a request with the table: the features that it needs, the size of its
// body and the number of its descriptors. The receiver checks what is in the body.
func (m *Message) Check(negotiated ProtocolFeatures) error {
	f := FormatOf(m.Direction, m.Number)
	switch {
	case f == nil || f.Answer.Kind == NoAnswer:
		return ErrUnknownRequest
	case !negotiated.Has(f.Needs):
		return fmt.Errorf("needs %s, which was not negotiated", f.Needs)
	}
	return m.checkSizes(f.Body, f.FDs)
}

// CheckReply compares an answer with the request that it is for and with the table. The
// empty body that refuses a request is well-formed. To a request without a format an
// acknowledgement is the only answer.
func (m *Message) CheckReply(request uint32) error {
	want := ack
	if f := FormatOf(m.Direction, request); f != nil && f.Answer.Kind != NoAnswer {
		want = f.Answer
	}
	switch {
	case m.Flags&FlagReply == 0:
		return errors.New("the answer is not marked as a reply")
	case m.Number != request:
		return fmt.Errorf("the answer is for %s", m)
	case want.Kind == ReplyBody && len(m.Body) == 0:
		return m.checkSizes(noBody, noFD)
	}
	return m.checkSizes(want.Body, want.FDs)
}

// checkSizes compares a message's body and descriptors with what they should be.
func (m *Message) checkSizes(body, fds Range) error {
	switch n := len(m.Body); {
	case !body.Has(n):
		return fmt.Errorf("body of %d bytes, want %s", n, body)
	case m.FDsLost:
		return errors.New("descriptors were lost: more than the protocol allows, or this process has too many open (raise RLIMIT_NOFILE)")
	case !fds.Has(len(m.FDs)):
		return fmt.Errorf("%d descriptors attached, want %d to %d", len(m.FDs), fds.Min, fds.Max)
	}
	return nil
}
