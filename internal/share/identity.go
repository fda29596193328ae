package share

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Identity says who owns the files, on the host and in the guest.
type Identity struct {
	TranslateUID, TranslateGID []string
	Ownership                  passthrough.Ownership
	UIDMaps, GIDMaps           []string // of the user namespace

	UIDs, GIDs *passthrough.IDMap // settled: TranslateUID and TranslateGID; nil is no rules
}

func identityOptions() []Option {
	return []Option{
		{
			Name: "translate-uid", Arg: "KIND:FROM:TO:COUNT",
			Value:  lines(func(c *Config) *[]string { return &c.TranslateUID }),
			Help:   "Translate COUNT user ids from FROM on between guest and host; may be repeated. KIND is map (guest ids FROM, host ids TO, both ways), guest (guest to host only), host (host to guest only), squash-guest or squash-host (the same, all to the one id TO), or forbid-guest:FROM:COUNT (no file may belong to these). Other ids are not changed.",
			Manual: translateManual,
		},
		{
			Name: "translate-gid", Arg: "KIND:FROM:TO:COUNT", Joined: true,
			Value: lines(func(c *Config) *[]string { return &c.TranslateGID }),
			Help:  "Translate group ids, as --translate-uid translates user ids.",
		},
		{
			Name: "ownership", Default: "host", Doctor: true,
			Value: oneOf(func(c *Config) *passthrough.Ownership { return &c.Ownership },
				word[passthrough.Ownership]{text: "host", is: passthrough.OwnershipHost},
				word[passthrough.Ownership]{text: "xattr", is: passthrough.OwnershipXattr}),
			Help: "Where owners, modes and device numbers of files are kept: in the host's files; or in extended attributes, so that a daemon without privileges can serve a guest with users of its own. Default {default}.",
			Manual: `Where the owner, the mode and the device number of a file are kept.
.Cm host
(the default): in the host's file; the daemon needs the privilege to change owners.
.Cm xattr :
in the extended attribute
.Va user.containers.override_stat ,
which the guest can neither see nor set.
On the host all files then belong to the daemon's user, and devices, FIFOs and sockets are regular files.
The guest's root can do everything that root can do on a local disk: change owners, make devices, set
set-user-ID bits.
The share's file system must have user attributes.
Excludes
.Fl -translate-uid ,
.Fl -translate-gid ,
.Fl -posix-acl
and
.Fl -killpriv-v2 .`,
		},
		{
			Name: "uid-map", Arg: ":INSIDE:OUTSIDE:COUNT:", Doctor: true,
			Value: lines(func(c *Config) *[]string { return &c.UIDMaps }),
			Help:  "Ids in the sandbox, for users other than root; may be repeated. Default: the id of the user who starts it.",
			Manual: `Which ids the user namespace has if a user other than root starts the daemon; may be repeated.
The first character is the separator.
All ids other than the user's own need
.Xr newuidmap 1 .
Default: the user's own id, mapped to itself.`,
		},
		{
			Name: "gid-map", Arg: ":INSIDE:OUTSIDE:COUNT:", Joined: true, Doctor: true,
			Value: lines(func(c *Config) *[]string { return &c.GIDMaps }),
			Help:  "The same for groups.",
		},
	}
}

const translateManual = `Translate user or group ids between guest and host; may be repeated.
.Ar kind
is one of
.Bl -tag -width squash-guest
.It Cm map
Guest ids
.Ar from
to
.Ar from Ns + Ns Ar count Ns \-1
are host ids
.Ar to
to
.Ar to Ns + Ns Ar count Ns \-1 ,
both ways.
.It Cm guest
The same, but only from the guest to the host: for files that are made or changed.
.It Cm host
Host ids
.Ar from
on are shown to the guest as
.Ar to
on.
.It Cm squash-guest , squash-host
Like
.Cm guest
and
.Cm host ,
but all these ids become the one id
.Ar to .
.It Cm forbid-guest
The guest can't make files with these ids, nor change the owner of a file to one of them
.Pq Er EPERM .
This kind has no
.Ar to .
.El
.Pp
Ids that no rule covers are not changed.
Two rules that cover the same id are an error.
A
.Ar count
of 0 covers nothing.
Ids in access control lists and file capabilities are translated, too.`

func (c *Config) checkIdentity(*pflag.FlagSet) (err error) {
	if c.UIDs, err = translation("--translate-uid", c.TranslateUID); err != nil {
		return err
	}
	if c.GIDs, err = translation("--translate-gid", c.TranslateGID); err != nil {
		return err
	}
	if c.Namespace.UIDs, err = idMaps("--uid-map", c.UIDMaps); err != nil {
		return err
	}
	if c.Namespace.GIDs, err = idMaps("--gid-map", c.GIDMaps); err != nil {
		return err
	}
	return c.CheckOwnership()
}

// CheckOwnership refuses options that make no sense when the guest's owners differ from
// the host's.
func (c *Config) CheckOwnership() error {
	if c.Ownership != passthrough.OwnershipXattr {
		return nil
	}
	for _, other := range []struct {
		options string
		given   bool
	}{
		{"--translate-uid and --translate-gid", c.UIDs != nil || c.GIDs != nil},
		{"--posix-acl", c.PosixACL != passthrough.Never},
		{"--killpriv-v2", c.KillprivV2},
	} {
		if other.given {
			return fmt.Errorf("--ownership=xattr excludes %s: on the host all files belong to the daemon's user", other.options)
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
			return nil, fmt.Errorf("%s: %w", option, err)
		}
		rules = append(rules, r)
	}
	m, err := passthrough.NewIDMap(rules)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	return m, nil
}

// idMaps reads the values of --uid-map or --gid-map.
func idMaps(option string, values []string) (maps []sandbox.IDMap, err error) {
	for _, v := range values {
		m, err := sandbox.ParseIDMap(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", option, err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}
