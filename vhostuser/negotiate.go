package vhostuser

import (
	"fmt"
)

// connProtocolFeatures are offered whatever the device is.
const connProtocolFeatures = ProtocolMQ | ProtocolLogShmFD | ProtocolReplyAck |
	ProtocolBackendReq | ProtocolBackendSendFD | ProtocolResetDevice |
	ProtocolInflightShmFD | ProtocolConfigureMemSlots | ProtocolStatus

func (c *Conn) offeredFeatures() uint64 { return connFeatures | c.device.Features() }

func (c *Conn) offeredProtocol() ProtocolFeatures {
	p := connProtocolFeatures | c.device.ProtocolFeatures()
	if c.device.Config() != nil {
		p |= ProtocolConfig
	}
	if _, ok := c.device.(StateTransferrer); ok {
		p |= ProtocolDeviceState
	}
	if _, ok := c.device.(SharedMemoryDevice); ok {
		p |= ProtocolSharedMemory
	}
	return p
}

func (c *Conn) getFeatures(*message) ([]byte, error) { return u64(c.offeredFeatures()), nil }

// setFeatures may come again while rings run, to switch FeatureLogAll at the start
// and end of a migration; the other bits count when a ring is started.
func (c *Conn) setFeatures(m *message) ([]byte, error) {
	f := body[U64](m).Value
	if extra := f &^ c.offeredFeatures(); extra != 0 {
		return nil, fmt.Errorf("feature bits %#x were not offered", extra)
	}
	if err := c.device.Negotiated(f, c.protocol); err != nil {
		return nil, err
	}
	c.features = f
	c.updateLogs()
	return nil, nil
}

func (c *Conn) getProtocolFeatures(*message) ([]byte, error) {
	return u64(uint64(c.offeredProtocol())), nil
}

func (c *Conn) setProtocolFeatures(m *message) ([]byte, error) {
	p := ProtocolFeatures(body[U64](m).Value)
	if extra := p &^ c.offeredProtocol(); extra != 0 {
		return nil, fmt.Errorf("protocol features %s were not offered", extra)
	}
	c.protocol = p
	return nil, c.device.Negotiated(c.features, p)
}

func (c *Conn) getQueueNum(*message) ([]byte, error) { return u64(uint64(len(c.rings))), nil }

func (c *Conn) setOwner(*message) ([]byte, error) { return nil, nil }

// resetOwner stops all rings; the request is deprecated and its meaning was never
// more than that (vhost-user, VHOST_USER_RESET_OWNER).
func (c *Conn) resetOwner(*message) ([]byte, error) {
	c.disableRings()
	return nil, nil
}

func (c *Conn) resetDevice(*message) ([]byte, error) {
	c.disableRings()
	c.status = 0
	c.device.Reset()
	return nil, nil
}

// setStatus only keeps the number. A status of 0 does not reset the device's state:
// QEMU sends it whenever it stops the rings, for a paused guest too, which goes on
// without a new INIT.
func (c *Conn) setStatus(m *message) ([]byte, error) {
	c.status = body[U64](m).Value & 0xff
	return nil, nil
}

func (c *Conn) getStatus(*message) ([]byte, error) { return u64(c.status), nil }

// getConfig answers with exactly the bytes that were asked for; beyond the end of
// the configuration space they are 0.
func (c *Conn) getConfig(m *message) ([]byte, error) {
	h, err := configHeader(m)
	if err != nil {
		return nil, err
	}
	reply := make([]byte, 12+h.Size)
	copy(reply, Bytes(&h))
	if config := c.device.Config(); int(h.Offset) < len(config) {
		copy(reply[12:], config[h.Offset:])
	}
	return reply, nil
}

// setConfig is refused: a virtio-fs configuration space has no writable field
// (virtio 1.2, 5.11.4).
func (c *Conn) setConfig(m *message) ([]byte, error) {
	if _, err := configHeader(m); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the configuration space is read-only")
}

func configHeader(m *message) (ConfigHeader, error) {
	h, ok := Decode[ConfigHeader](m.body)
	if !ok {
		return h, fmt.Errorf("body of %d bytes is shorter than its header", len(m.body))
	}
	// The bytes that follow may be left out of GET_CONFIG by some front-ends.
	if h.Size == 0 || h.Size > MaxConfigSize || h.Offset > MaxConfigSize || h.Offset+h.Size > MaxConfigSize {
		return h, fmt.Errorf("%d bytes at offset %d of the configuration space", h.Size, h.Offset)
	}
	return h, nil
}
