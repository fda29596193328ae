package main

import (
	"slices"

	"github.com/spf13/pflag"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

// checkXattrmap reads the rules for names of extended attributes.
func (o *options) checkXattrmap(set *pflag.FlagSet) (err error) {
	hasRules := set.Changed("xattrmap") || o.hasXattrmap
	hasPreset := set.Changed("xattrmap-preset")
	switch {
	case hasRules && hasPreset:
		return usagef("--xattrmap and --xattrmap-preset exclude each other")
	case hasRules:
		if o.names, err = xattrmap.Parse(o.xattrmap); err != nil {
			if _, perr := xattrmap.PresetRules(o.xattrmap); perr == nil {
				return usagef("--xattrmap: %q is the name of a preset: use --xattrmap-preset=%s", o.xattrmap, o.xattrmap)
			}
			return usagef("--xattrmap: %v", err)
		}
	case hasPreset:
		if o.names, err = xattrmap.Preset(o.preset); err != nil {
			return usagef("--xattrmap-preset: %v", err)
		}
	default:
		return nil
	}
	o.xattr = true
	return nil
}

// checkNames warns of rules that lead to less than they promise, once it is known which
// capabilities the daemon keeps: attributes of the namespace trusted are for
// CAP_SYS_ADMIN.
func (o *options) checkNames() {
	if o.names != nil && o.posixACL != "never" {
		const acl = "system.posix_acl_access"
		if prepend, v := o.names.ToHost([]byte(acl)); v != xattrmap.Pass || prepend != "" {
			o.warn("the rules for attributes concern access control lists, too: where the host does not know these it neither keeps modes in step with them nor gives default lists to new files")
		}
	}
	if o.names != nil && o.names.Uses("trusted.") && !slices.Contains(o.capabilities, cap.SYS_ADMIN) {
		o.warn("the guest's attributes would be kept in trusted.*, which only CAP_SYS_ADMIN can use: give --modcaps=+sys_admin, or use names in user.*")
	}
}
