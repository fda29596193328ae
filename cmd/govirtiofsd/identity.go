package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// checkIdentity works out whose the files are, here and in the guest.
func (o *options) checkIdentity(*pflag.FlagSet) (err error) {
	if o.users, err = translation("--translate-uid", o.userRules); err != nil {
		return err
	}
	if o.groupIDs, err = translation("--translate-gid", o.groupRules); err != nil {
		return err
	}
	if o.namespace.UIDs, err = idMaps("--uid-map", o.uidMaps); err != nil {
		return err
	}
	if o.namespace.GIDs, err = idMaps("--gid-map", o.gidMaps); err != nil {
		return err
	}
	return o.checkOwnership()
}

// checkOwnership refuses what has no meaning when the guest's owners are not the host's.
func (o *options) checkOwnership() error {
	if o.ownership != "xattr" {
		return nil
	}
	for option, given := range map[string]bool{
		"--translate-uid and --translate-gid": o.users != nil || o.groupIDs != nil,
		"--posix-acl":                         o.posixACL != "never",
		"--killpriv-v2":                       o.killpriv,
	} {
		if given {
			return usagef("--ownership=xattr excludes %s: on the host all files belong to the daemon's user", option)
		}
	}
	return nil
}

// translation reads the values of --translate-uid or --translate-gid.
func translation(option string, values []string) (*passthrough.IDMap, error) {
	var rules []passthrough.IDRule
	for _, v := range values {
		r, err := passthrough.ParseIDRule(v)
		if err != nil {
			return nil, usagef("%s: %v", option, err)
		}
		rules = append(rules, r)
	}
	m, err := passthrough.NewIDMap(rules)
	if err != nil {
		return nil, usagef("%s: %v", option, err)
	}
	return m, nil
}

// idMaps reads the values of --uid-map or --gid-map.
func idMaps(option string, values []string) (maps []sandbox.IDMap, err error) {
	for _, v := range values {
		m, err := sandbox.ParseIDMap(v)
		if err != nil {
			return nil, usagef("%s: %v", option, err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// aboutOwners says at the start what a daemon of user uid can't do for the guest; ""
// is nothing.
func (o *options) aboutOwners(uid int) string {
	if uid == 0 || o.readOnly || o.ownership == "xattr" || o.users != nil || len(o.uidMaps) > 0 {
		return ""
	}
	return fmt.Sprintf("All files belong to user %d: the guest's root can't give files away or make devices, "+
		"and its other users can't make files. --ownership=xattr can do all that, see also --uid-map", uid)
}
