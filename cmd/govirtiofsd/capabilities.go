package main

import (
	"encoding/json"
	"io"

	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// capabilities is what management programs (libvirt, Incus) ask a vhost-user
// back-end for, as in QEMU's docs/interop/vhost-user.json.
type capabilities struct {
	Type     string   `json:"type"`
	Features []string `json:"features"`
}

// ownCapabilities are those of this program.
func ownCapabilities() capabilities {
	c := capabilities{Type: "fs"}
	if new(virtiofs.Device).ProtocolFeatures().Has(vhostuser.ProtocolDeviceState) {
		c.Features = append(c.Features, "migrate-precopy")
	}
	c.Features = append(c.Features,
		"posix-acl-negotiation-mode", "security-label-negotiation-mode", // =never|auto|always
		"separate-options") // options with names of their own, not -o
	return c
}

func printCapabilities(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(ownCapabilities())
}
