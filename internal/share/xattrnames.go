package share

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

const xattrmapManual = `Serve extended attributes under other names on the host.
A rule is
.Ql :type:scope:key:prepend: ,
with any separator in place of the colon; the first one that matches a name counts, and every name
must match one.
.Ar scope
is
.Cm client
(names from the guest that begin with
.Ar key ) ,
.Cm server
(names in a list of the host's that begin with
.Ar prepend )
or
.Cm all .
.Ar type
is
.Cm prefix
.Po
.Ar prepend
is put before names from the guest and taken off those of the host
.Pc ,
.Cm ok
(the name is not changed),
.Cm bad
(EPERM, and hidden) or
.Cm unsupported
(EOPNOTSUPP, and hidden).
The last rule may be
.Ql :map:key:prepend: ,
which moves names from
.Ar key
to
.Ar prepend ,
hides the names below
.Ar prepend
from the guest, and does not change other names.
With an empty
.Ar key
it moves all names.
Turns on
.Fl -xattr .`

const presetManual = `Prepared rules for a purpose, separated by commas:
.Cm selinux
keeps the guest's labels apart from the host's, in
.Li trusted.virtiofs.*
(needs
.Fl -modcaps Ns = Ns Cm +sys_admin ) ;
.Cm selinux-user
does so in
.Li user.virtiofs.* ,
where links and devices have none;
.Cm no-selinux
shows no labels;
.Cm overlayfs
keeps
.Li trusted.*
in
.Li user.virtiofs.* ,
for the upper directory of an overlay;
.Cm separate
keeps everything there.`

// SettleNames reads the rules for names of extended attributes. Rules imply --xattr.
func (c *Config) SettleNames(set *pflag.FlagSet) (err error) {
	hasRules := set.Changed("xattrmap") || c.hasRules
	hasPreset := set.Changed("xattrmap-preset")
	switch {
	case hasRules && hasPreset:
		return errors.New("--xattrmap and --xattrmap-preset exclude each other")
	case hasRules:
		if c.Names, err = xattrmap.Parse(c.XattrRules); err != nil {
			if _, perr := xattrmap.PresetRules(c.XattrRules); perr == nil {
				return fmt.Errorf("--xattrmap: %q is the name of a preset: use --xattrmap-preset=%s", c.XattrRules, c.XattrRules)
			}
			return fmt.Errorf("--xattrmap: %w", err)
		}
	case hasPreset:
		if c.Names, err = xattrmap.Preset(c.XattrPreset); err != nil {
			return fmt.Errorf("--xattrmap-preset: %w", err)
		}
	}
	c.Xattr = c.Xattr || c.Names != nil
	return nil
}

// warnNames warns of rules that can't work with the capabilities that the daemon
// keeps: attributes of the namespace trusted need CAP_SYS_ADMIN.
func (c *Config) warnNames() {
	if c.Names == nil {
		return
	}
	if c.PosixACL != passthrough.Never {
		const acl = "system.posix_acl_access"
		if prepend, v := c.Names.ToHost([]byte(acl)); v != xattrmap.Pass || prepend != "" {
			c.Warn("the rules for attributes concern access control lists, too: where the host does not know these it neither keeps modes in step with them nor gives default lists to new files")
		}
	}
	if c.Names.Uses("trusted.") && !slices.Contains(c.Capabilities, cap.SYS_ADMIN) {
		c.Warn("the guest's attributes would be kept in trusted.*, which only CAP_SYS_ADMIN can use: give --modcaps=+sys_admin, or use names in user.*")
	}
}
