package vhostuser

import (
	"fmt"
	"math/bits"
	"strings"
)

// Virtio feature bits that Conn adds to those of the device.
const (
	FeatureLogAll           uint64 = 1 << 26 // VHOST_F_LOG_ALL: log written pages
	FeatureIndirectDesc     uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx         uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureProtocolFeatures uint64 = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	FeatureVersion1         uint64 = 1 << 32 // VIRTIO_F_VERSION_1
)

// connFeatures are offered for every device: they concern rings and this protocol.
// RING_PACKED (34) and others that would change the rings are not offered, because
// a front-end may pass any of them on to the guest.
const connFeatures = FeatureLogAll | FeatureIndirectDesc | FeatureEventIdx |
	FeatureProtocolFeatures | FeatureVersion1

// ProtocolFeatures is a set of protocol features.
type ProtocolFeatures uint64

// Protocol feature bits (vhost-user, "Protocol features").
const (
	ProtocolMQ                   ProtocolFeatures = 1 << 0  // GET_QUEUE_NUM
	ProtocolLogShmFD             ProtocolFeatures = 1 << 1  // SET_LOG_BASE carries a descriptor
	ProtocolRARP                 ProtocolFeatures = 1 << 2  // network devices only
	ProtocolReplyAck             ProtocolFeatures = 1 << 3  // FlagNeedReply
	ProtocolMTU                  ProtocolFeatures = 1 << 4  // network devices only
	ProtocolBackendReq           ProtocolFeatures = 1 << 5  // SET_BACKEND_REQ_FD
	ProtocolCrossEndian          ProtocolFeatures = 1 << 6  // legacy devices only
	ProtocolCryptoSession        ProtocolFeatures = 1 << 7  // crypto devices only
	ProtocolPageFault            ProtocolFeatures = 1 << 8  // postcopy migration
	ProtocolConfig               ProtocolFeatures = 1 << 9  // GET_CONFIG, SET_CONFIG
	ProtocolBackendSendFD        ProtocolFeatures = 1 << 10 // our requests carry descriptors
	ProtocolHostNotifier         ProtocolFeatures = 1 << 11 // doorbells of hardware
	ProtocolInflightShmFD        ProtocolFeatures = 1 << 12 // GET_INFLIGHT_FD, SET_INFLIGHT_FD
	ProtocolResetDevice          ProtocolFeatures = 1 << 13 // RESET_DEVICE
	ProtocolInbandNotifications  ProtocolFeatures = 1 << 14 // kicks and calls as messages
	ProtocolConfigureMemSlots    ProtocolFeatures = 1 << 15 // ADD_MEM_REG, REM_MEM_REG
	ProtocolStatus               ProtocolFeatures = 1 << 16 // SET_STATUS, GET_STATUS
	ProtocolXenMmap              ProtocolFeatures = 1 << 17 // Xen grants as memory
	ProtocolSharedObject         ProtocolFeatures = 1 << 18 // dma-bufs by UUID
	ProtocolDeviceState          ProtocolFeatures = 1 << 19 // SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE
	ProtocolGetVringBaseInflight ProtocolFeatures = 1 << 20 // GET_VRING_BASE does not wait for requests
	ProtocolGPAAddresses         ProtocolFeatures = 1 << 21 // ring addresses are guest addresses
	ProtocolSharedMemory         ProtocolFeatures = 1 << 22 // GET_SHMEM_CONFIG, SHMEM_MAP; older texts have it as 20
)

var protocolNames = [...]string{
	"MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN",
	"CRYPTO_SESSION", "PAGEFAULT", "CONFIG", "BACKEND_SEND_FD", "HOST_NOTIFIER",
	"INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS",
	"STATUS", "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
	"GPA_ADDRESSES", "SHMEM",
}

// Has reports whether all of want are in p.
func (p ProtocolFeatures) Has(want ProtocolFeatures) bool { return p&want == want }

// String lists the names, as "MQ|REPLY_ACK"; unknown bits are shown as numbers.
func (p ProtocolFeatures) String() string {
	var names []string
	for rest := uint64(p); rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		if bit < len(protocolNames) {
			names = append(names, protocolNames[bit])
		} else {
			names = append(names, fmt.Sprintf("bit %d", bit))
		}
	}
	return strings.Join(names, "|")
}
