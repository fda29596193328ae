package vhostuser

// Request is the number of a request that the front-end sends.
type Request uint32

// Requests of the front-end (vhost-user, "Front-end message types").
const (
	ReqGetFeatures         Request = 1
	ReqSetFeatures         Request = 2
	ReqSetOwner            Request = 3
	ReqResetOwner          Request = 4
	ReqSetMemTable         Request = 5
	ReqSetLogBase          Request = 6
	ReqSetLogFD            Request = 7
	ReqSetVringNum         Request = 8
	ReqSetVringAddr        Request = 9
	ReqSetVringBase        Request = 10
	ReqGetVringBase        Request = 11
	ReqSetVringKick        Request = 12
	ReqSetVringCall        Request = 13
	ReqSetVringErr         Request = 14
	ReqGetProtocolFeatures Request = 15
	ReqSetProtocolFeatures Request = 16
	ReqGetQueueNum         Request = 17
	ReqSetVringEnable      Request = 18
	ReqSendRARP            Request = 19
	ReqNetSetMTU           Request = 20
	ReqSetBackendReqFD     Request = 21
	ReqIOTLBMsg            Request = 22
	ReqSetVringEndian      Request = 23
	ReqGetConfig           Request = 24
	ReqSetConfig           Request = 25
	ReqCreateCryptoSession Request = 26
	ReqCloseCryptoSession  Request = 27
	ReqPostcopyAdvise      Request = 28
	ReqPostcopyListen      Request = 29
	ReqPostcopyEnd         Request = 30
	ReqGetInflightFD       Request = 31
	ReqSetInflightFD       Request = 32
	ReqGPUSetSocket        Request = 33
	ReqResetDevice         Request = 34
	ReqVringKick           Request = 35
	ReqGetMaxMemSlots      Request = 36
	ReqAddMemReg           Request = 37
	ReqRemMemReg           Request = 38
	ReqSetStatus           Request = 39
	ReqGetStatus           Request = 40
	ReqGetSharedObject     Request = 41
	ReqSetDeviceStateFD    Request = 42
	ReqCheckDeviceState    Request = 43
	ReqGetShmemConfig      Request = 44
)

// BackendRequest is the number of a request that the back-end sends over the
// channel of SET_BACKEND_REQ_FD.
type BackendRequest uint32

// Requests of the back-end (vhost-user, "Back-end message types").
const (
	BackendIOTLBMsg           BackendRequest = 1
	BackendConfigChange       BackendRequest = 2
	BackendVringHostNotifier  BackendRequest = 3
	BackendVringCall          BackendRequest = 4
	BackendVringErr           BackendRequest = 5
	BackendSharedObjectAdd    BackendRequest = 6
	BackendSharedObjectRemove BackendRequest = 7
	BackendSharedObjectLookup BackendRequest = 8
	BackendShmemMap           BackendRequest = 9
	BackendShmemUnmap         BackendRequest = 10
)
