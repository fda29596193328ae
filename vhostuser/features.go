package vhostuser

import (
	"fmt"
	"math/bits"
	"strings"
)

// Virtio feature bits that Conn adds to those of the device.
const (
	FeatureLogAll           uint64 = 1 << 26 // VHOST_F_LOG_ALL: log written pages
	FeatureIndirectDesc     uint64 = 1 << 28
	FeatureEventIdx         uint64 = 1 << 29
	FeatureProtocolFeatures uint64 = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	FeatureVersion1         uint64 = 1 << 32
)

// connFeatures are offered whatever the device is.
const connFeatures = FeatureLogAll | FeatureIndirectDesc | FeatureEventIdx |
	FeatureProtocolFeatures | FeatureVersion1

// ProtocolFeatures is a set of protocol features.
type ProtocolFeatures uint64

// Protocol feature bits (vhost-user, "Protocol features").
const (
	ProtocolMQ                   ProtocolFeatures = 1 << 0
	ProtocolLogShmFD             ProtocolFeatures = 1 << 1
	ProtocolRARP                 ProtocolFeatures = 1 << 2
	ProtocolReplyAck             ProtocolFeatures = 1 << 3
	ProtocolMTU                  ProtocolFeatures = 1 << 4
	ProtocolBackendReq           ProtocolFeatures = 1 << 5
	ProtocolCrossEndian          ProtocolFeatures = 1 << 6
	ProtocolCryptoSession        ProtocolFeatures = 1 << 7
	ProtocolPageFault            ProtocolFeatures = 1 << 8
	ProtocolConfig               ProtocolFeatures = 1 << 9
	ProtocolBackendSendFD        ProtocolFeatures = 1 << 10
	ProtocolHostNotifier         ProtocolFeatures = 1 << 11
	ProtocolInflightShmFD        ProtocolFeatures = 1 << 12
	ProtocolResetDevice          ProtocolFeatures = 1 << 13
	ProtocolInbandNotifications  ProtocolFeatures = 1 << 14
	ProtocolConfigureMemSlots    ProtocolFeatures = 1 << 15
	ProtocolStatus               ProtocolFeatures = 1 << 16
	ProtocolXenMmap              ProtocolFeatures = 1 << 17
	ProtocolSharedObject         ProtocolFeatures = 1 << 18
	ProtocolDeviceState          ProtocolFeatures = 1 << 19
	ProtocolGetVringBaseInflight ProtocolFeatures = 1 << 20
	ProtocolGPAAddresses         ProtocolFeatures = 1 << 21
	ProtocolSharedMemory         ProtocolFeatures = 1 << 22
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
