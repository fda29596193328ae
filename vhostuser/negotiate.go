package vhostuser

import "fmt"

// connProtocolFeatures are offered for every device.
//
// INBAND_NOTIFICATIONS is not among them: QEMU acknowledges every bit that it knows,
// and would then get VRING_CALL messages which it takes for an error. PAGEFAULT
// (postcopy migration) and GPA_ADDRESSES are not implemented.
const connProtocolFeatures = ProtocolMQ | ProtocolLogShmFD | ProtocolReplyAck |
	ProtocolBackendReq | ProtocolBackendSendFD | ProtocolResetDevice |
	ProtocolInflightShmFD | ProtocolConfigureMemSlots | ProtocolStatus

// offeredFeatures are the virtio features of the device and ours.
func (c *Conn) offeredFeatures() uint64 { return connFeatures | c.device.Features() }

// offeredProtocol are the protocol features of the device and ours. What the device
// can do shows in its methods.
func (c *Conn) offeredProtocol() ProtocolFeatures {
	p := connProtocolFeatures | c.device.ProtocolFeatures()
	if c.device.Config() != nil {
		p |= ProtocolConfig
	}
	if len(c.device.SharedMemory()) > 0 {
		p |= ProtocolSharedMemory
	}
	return p
}

func (c *Conn) getFeatures(*message) ([]byte, error) { return replyU64(c.offeredFeatures()), nil }

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
	if !c.ringsSwitched() {
		for i := range c.rings {
			c.rings[i].enabled = true
		}
		c.startReady()
	}
	return nil, nil
}

// ringsSwitched reports whether rings wait for SET_VRING_ENABLE. A SET_FEATURES
// without FeatureProtocolFeatures enables them all (vhost-user, "Ring states").
func (c *Conn) ringsSwitched() bool {
	return c.features == 0 || c.features&FeatureProtocolFeatures != 0
}

func (c *Conn) getProtocolFeatures(*message) ([]byte, error) {
	return replyU64(uint64(c.offeredProtocol())), nil
}

// setProtocolFeatures refuses what was not offered. It needs no SET_FEATURES before
// it (vhost-user, VHOST_USER_SET_PROTOCOL_FEATURES).
func (c *Conn) setProtocolFeatures(m *message) ([]byte, error) {
	p := ProtocolFeatures(body[U64](m).Value)
	if extra := p &^ c.offeredProtocol(); extra != 0 {
		return nil, fmt.Errorf("protocol features %s were not offered", extra)
	}
	if err := c.device.Negotiated(c.features, p); err != nil {
		return nil, err
	}
	c.protocol = p
	return nil, nil
}

func (c *Conn) getQueueNum(*message) ([]byte, error) { return replyU64(uint64(len(c.rings))), nil }

// setOwner begins a session, which a connection is anyway.
func (c *Conn) setOwner(*message) ([]byte, error) { return nil, nil }

// resetOwner disables all rings and nothing else: what some back-ends did beyond
// that led to bugs (vhost-user, VHOST_USER_RESET_OWNER).
func (c *Conn) resetOwner(*message) ([]byte, error) {
	for i := range c.rings {
		c.stopRing(i)
		if c.ringsSwitched() {
			c.rings[i].enabled = false
		} else {
			c.rings[i].dropKick() // nothing but a new one starts it again
		}
	}
	return nil, nil
}

// resetDevice brings rings and device to their initial state. Memory stays: QEMU
// tells only what has changed since.
func (c *Conn) resetDevice(*message) ([]byte, error) {
	c.meet(false)
	c.resumed = nil
	for i := range c.rings {
		c.stopRing(i)
		r := &c.rings[i]
		r.dropKick()
		r.enabled, r.base, r.ran = !c.ringsSwitched(), 0, false
	}
	c.transfer.abort()
	c.status = 0
	c.device.Reset()
	return nil, nil
}

// setStatus only stores the number. A status of 0 does not reset the device's
// state: QEMU sends it whenever it stops the rings. It does so for a paused guest,
// too, which continues without a new INIT.
func (c *Conn) setStatus(m *message) ([]byte, error) {
	c.status = body[U64](m).Value & 0xff
	return nil, nil
}

func (c *Conn) getStatus(*message) ([]byte, error) { return replyU64(c.status), nil }
