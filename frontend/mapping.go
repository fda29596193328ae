package frontend

import (
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// DAXFlags are what a Linux guest with a window offers beside AllFlags.
const DAXFlags = fp.InitMapAlignment | fp.InitHasInodeDAX

// SetupMapping maps length bytes of an open file from fileOffset on at offset in the
// window. Linux gives no handle: it maps by node alone, with fh all ones.
func (c *Client) SetupMapping(node, fh, fileOffset, length, offset, flags uint64) error {
	in := fp.SetupMappingIn{Fh: fh, Foffset: fileOffset, Len: length, Flags: flags, Moffset: offset}
	_, err := c.Do(&Request{Op: fp.OpSetupMapping, NodeID: node, Body: bytesOf(in)})
	return err
}

// RemoveMapping takes mappings away.
func (c *Client) RemoveMapping(node uint64, list ...fp.RemoveMappingOne) error {
	return c.RemoveMappingCount(node, uint32(len(list)), list...)
}

// RemoveMappingCount is RemoveMapping with a count of its own.
func (c *Client) RemoveMappingCount(node uint64, count uint32, list ...fp.RemoveMappingOne) error {
	b := bytesOf(fp.RemoveMappingIn{Count: count})
	for i := range list {
		b = append(b, bytesOf(list[i])...)
	}
	_, err := c.Do(&Request{Op: fp.OpRemoveMapping, NodeID: node, Body: b})
	return err
}
