package share

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// Caching is how long and what the guest may cache.
type Caching struct {
	Cache passthrough.CachePolicy
	// Times that differ from those of the policy. nil means the policy's time.
	EntryTimeout, AttrTimeout, NegativeTimeout *time.Duration

	Immutable     bool
	CacheSymlinks *bool // nil is as in the policy
	DirectIO      []string
	DirectIOSize  uint64 // bytes; 0 is none
	Writeback     bool
	AllowDirectIO bool
	AllowMmap     bool
	Readdirplus   bool
	Events        EventsMode
}

// EventsMode says whether the guest is told of what others change on the host.
type EventsMode string

// Whether the share has a channel for a helper in the guest.
const (
	EventsNever EventsMode = "never"
	EventsAuto  EventsMode = "auto"
)

func cachingOptions() []Option {
	return []Option{
		{
			Name: "cache", Default: "auto", Doctor: true,
			Value: oneOf(func(c *Config) *passthrough.CachePolicy { return &c.Cache },
				word[passthrough.CachePolicy]{text: "never", is: passthrough.CacheNever},
				word[passthrough.CachePolicy]{text: "metadata", is: passthrough.CacheMetadata},
				word[passthrough.CachePolicy]{text: "auto", is: passthrough.CacheAuto},
				word[passthrough.CachePolicy]{text: "always", is: passthrough.CacheAlways}),
			Help: "How long the guest may use cached names, attributes and data. never: not at all. metadata: names and attributes for a day, no data. auto: names and attributes for a second. always: everything for a day. Default {default}.",
			Manual: `How long the guest may use cached names, attributes and file data.
.Cm never :
not at all, and it caches no file data.
.Cm metadata :
names and attributes for a day, no file data.
.Cm auto
(the default): names and attributes for a second; file data until the file is opened again after a
change.
.Cm always :
everything for a day.
Use
.Cm always
and
.Cm metadata
only when nobody else changes the share.`,
		},
		{
			Name: "events", Default: string(EventsNever), Doctor: true,
			Value: oneOf(func(c *Config) *EventsMode { return &c.Events }, literally(EventsAuto, EventsNever)...),
			Help:  "Tell the guest what others change in the share. auto: if govirtiofs-guest watch runs in the guest, programs there get inotify events, and the guest's caches are updated; without it the guest caches names and attributes for a second. Default {default}.",
			Manual: `Tell the guest what others change in the share.
.Cm auto :
if
.Dq govirtiofs-guest watch
runs in the guest, programs there get inotify events of changes on the host, and the guest's caches
are updated.
The guest may then cache everything for up to ten minutes, as far as
.Fl -cache
allows it.
Without that program in the guest, cached names and attributes are valid for a second.
The share has a directory
.Pa .govirtiofs ,
which no listing shows and which only the guest's root can enter.
Over vsock
.Pq Fl -vsock
the guest drops cached entries as soon as something changes.
It does not need that program, and there are no inotify events.
.Cm never
(the default): the guest is not told of changes.`,
		},
		{
			Name: "entry-timeout", Arg: "TIME",
			Value: maybeTime(func(c *Config) **time.Duration { return &c.EntryTimeout }),
			Help:  "How long the guest may cache names, instead of the time that --cache sets: seconds, or with a unit (500ms, 2h).",
			Manual: `How long the guest may use cached names and attributes, instead of the time that
.Fl -cache
sets: seconds, also with a fraction, or a number with a unit (500ms, 2h).`,
		},
		{
			Name: "attr-timeout", Arg: "TIME", Joined: true,
			Value: maybeTime(func(c *Config) **time.Duration { return &c.AttrTimeout }),
			Help:  "The same for attributes.",
		},
		{
			Name: "negative-timeout", Arg: "TIME",
			Value: maybeTime(func(c *Config) **time.Duration { return &c.NegativeTimeout }),
			Help:  "How long the guest may remember that a name does not exist. Default 0.",
			Manual: `How long the guest may remember that a name does not exist.
Default: 0.`,
		},
		{
			Name:  "immutable",
			Value: on(func(c *Config) *bool { return &c.Immutable }),
			Help:  "For a share that never changes, also not on the host. It is read-only. The guest caches everything for a year, missing names too, and opens files without a request.",
			Manual: `For a share that never changes, also not on the host.
The share is read-only.
The guest caches names, attributes, missing names, listings, targets of symbolic links and data for a
year, unless a timeout option sets another time.
It opens files and directories without a request to the daemon, and locks stay in the guest.`,
		},
		{
			Name: "cache-symlinks", Off: "no-cache-symlinks",
			Value: maybeOn(func(c *Config) **bool { return &c.CacheSymlinks }),
			Help:  "Let the guest cache the targets of symbolic links. This is the default with --cache=metadata and always; --no-cache-symlinks turns it off.",
			Manual: `Whether the guest caches the targets of symbolic links.
It does by default with
.Fl -cache Ns = Ns Cm metadata
and
.Cm always .
Links of proc and sysfs must not be cached.`,
		},
		{
			Name: "direct-io", Arg: "PATTERN",
			Value: lines(func(c *Config) *[]string { return &c.DirectIO }),
			Check: func(c *Config) error { return checkPatterns("direct-io", c.DirectIO) },
			Help:  "Let the guest cache no data of files whose name (*.db) or path in the share (vm/**/*.img) matches. ** is any number of directories. May be repeated.",
			Manual: `The guest caches no data of files whose name matches
.Ar pattern .
For these files each read and write reaches the host, as with
.Fl -cache Ns = Ns Cm never .
A pattern with a slash is compared with the path in the share;
.Cm **
in it stands for any number of directories.
The name that counts is the one by which the guest has found the file.
May be repeated.`,
		},
		{
			Name: "direct-io-size", Arg: "SIZE",
			Value:  size(func(c *Config) *uint64 { return &c.DirectIOSize }),
			Help:   "The same for files of this size or more, in bytes or with K, M, G or T.",
			Manual: `The same for files of at least this size when they are opened, in bytes or with K, M, G or T.`,
		},
		{
			Name:  "writeback",
			Value: on(func(c *Config) *bool { return &c.Writeback }),
			Help:  "Let the guest collect writes in its page cache. Use it only if nobody else writes to the share.",
			Manual: `Let the guest collect writes in its page cache.
Use this only when nobody else writes to the share.`,
		},
		{
			Name:  "allow-direct-io",
			Value: on(func(c *Config) *bool { return &c.AllowDirectIO }),
			Help:  "Pass O_DIRECT on to the host.",
			Manual: `Pass
.Dv O_DIRECT
on to the host.
Otherwise files are opened without it.`,
		},
		{
			Name:  "allow-mmap",
			Value: on(func(c *Config) *bool { return &c.AllowMmap }),
			Help:  "Let the guest map files with MAP_SHARED also when --cache=never or metadata bypasses its page cache.",
			Manual: `Let the guest map files with
.Dv MAP_SHARED
also when it does not cache their data.`,
		},
		{
			Name: "readdirplus", Off: "no-readdirplus", Default: "true",
			Value: on(func(c *Config) *bool { return &c.Readdirplus }),
			Help:  "List directories without the attributes of the files.",
			Manual: `Whether the listing of a directory includes the attributes of the files.
Default: it does.`,
		},
	}
}

// checkPatterns checks the patterns of names that an option has.
func checkPatterns(option string, patterns []string) error {
	for _, p := range patterns {
		if err := passthrough.CheckPattern(p); err != nil {
			return fmt.Errorf("--%s: %w", option, err)
		}
	}
	return nil
}

// checkCaching completes the settings for caching. It runs before the checks that
// depend on whether the share can be changed.
func (c *Config) checkCaching(set *pflag.FlagSet) error {
	if c.Events == EventsAuto {
		switch {
		case c.Immutable:
			return errors.New("--events=auto and --immutable exclude each other: nothing changes")
		case c.Writeback:
			return errors.New("--events=auto and --writeback exclude each other: with --writeback nobody else may change the share")
		}
	}
	if !c.Immutable {
		return nil
	}
	switch {
	case set.Changed("cache") && c.Cache != passthrough.CacheAlways:
		return fmt.Errorf("--immutable and --cache=%s exclude each other: leave --cache out", set.Lookup("cache").Value)
	case c.Writeback:
		return errors.New("--immutable and --writeback exclude each other: nothing is written")
	}
	c.Cache, c.ReadOnly = passthrough.CacheAlways, true
	return nil
}
