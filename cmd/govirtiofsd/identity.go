package main

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// aboutOwners says at the start what a daemon of user uid can't do for the guest; ""
// is nothing.
func (o *options) aboutOwners(uid int) string {
	if uid == 0 || o.ReadOnly || o.Ownership == passthrough.OwnershipXattr || o.UIDs != nil || len(o.UIDMaps) > 0 {
		return ""
	}
	return fmt.Sprintf("All files belong to user %d: the guest's root can't give files away or make devices, "+
		"and its other users can't make files. --ownership=xattr can do all that, see also --uid-map", uid)
}
