package vhostuser

import (
	"errors"
	"fmt"
)

// configMigration in ConfigHeader.Flags of SET_CONFIG says that the destination of
// a migration sets the space to what the source had (VHOST_SET_CONFIG_TYPE_MIGRATION).
const configMigration uint32 = 1

// getConfig answers with exactly the bytes that were asked for; beyond the end of
// the configuration space they are 0.
func (c *Conn) getConfig(m *message) ([]byte, error) {
	h, err := configHeader(m)
	if err != nil {
		return nil, err
	}
	reply := make([]byte, sizeConfig+int(h.Size))
	copy(reply, Bytes(&h))
	if config := c.device.Config(); int(h.Offset) < len(config) {
		copy(reply[sizeConfig:], config[h.Offset:])
	}
	return reply, nil
}

// setConfig refuses what a driver writes: the configuration space of a virtio-fs
// device has no writable field (virtio 1.2, 5.11.4). What a migration brings is
// accepted and dropped, because this device says itself what it is.
func (c *Conn) setConfig(m *message) ([]byte, error) {
	h, err := configHeader(m)
	if err != nil {
		return nil, err
	}
	if h.Flags&configMigration == 0 {
		return nil, errors.New("the configuration space is read-only")
	}
	return nil, nil
}

// configHeader checks offset and size. The bytes after the header say nothing in a
// GET_CONFIG; a front-end may leave them out.
func configHeader(m *message) (ConfigHeader, error) {
	h := body[ConfigHeader](m)
	if h.Size == 0 || h.Size > MaxConfigSize || h.Offset > MaxConfigSize-h.Size {
		return h, fmt.Errorf("%d bytes at offset %d of the configuration space", h.Size, h.Offset)
	}
	if n := len(m.Body) - sizeConfig; n != int(h.Size) && (n != 0 || Request(m.Number) != ReqGetConfig) {
		return h, fmt.Errorf("%d bytes announced, %d sent", h.Size, n)
	}
	return h, nil
}
