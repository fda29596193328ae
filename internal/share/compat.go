package share

import (
	"fmt"
	"strings"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// Compat are old forms of options. The fields of the new options have their
// meaning.
type Compat struct {
	oldSocket          string
	words              []string // of -o
	debug, foreground  bool
	threadPool         uint64
	confirmPaths       bool
	hasRules           bool  // -o xattrmap
	posixLocks, flocks *bool // -o posix_lock, flock
}

func compatOptions() []Option {
	return []Option{
		{
			Name: "socket", Arg: "PATH", Complete: CompleteFile,
			Value: text(func(c *Config) *string { return &c.oldSocket }),
			Help:  "Old name of --socket-path.",
			Manual: `Old name of
.Fl -socket-path .
If both are given,
.Fl -socket-path
counts.`,
		},
		{
			Name: "option", Short: "o", Arg: "LIST",
			Value: lines(func(c *Config) *[]string { return &c.words }),
			Help:  "Options of the first virtiofsd, separated by commas: source=DIR, cache=WORD, xattr, no_xattr...",
			Manual: `Options of the first virtiofsd:
.Cm source Ns = Ns Ar dir ,
.Cm cache Ns = Ns Cm auto | always | none | metadata ,
.Cm sandbox Ns = Ns Ar word ,
.Cm loglevel Ns = Ns Ar word ,
.Cm modcaps Ns = Ns Ar list ,
.Cm xattrmap Ns = Ns Ar rules ,
.Cm timeout Ns = Ns Ar seconds ,
.Cm xattr , readdirplus , writeback , allow_direct_io , announce_submounts , killpriv_v2 ,
.Cm posix_acl , security_label , posix_lock , flock ,
and the same with
.Cm no_ .
.Cm posix_lock
and
.Cm flock
are
.Fl -locks Ns = Ns Cm host
for one kind of locks.
They are applied after all other options.`,
		},
		{
			Name: "debug", Short: "d",
			Value: on(func(c *Config) *bool { return &c.debug }),
			Help:  "The same as --log-level=debug.",
			Manual: `The same as
.Fl -log-level Ns = Ns Cm debug .`,
		},
		{
			Name: "foreground", Short: "f",
			Value:  on(func(c *Config) *bool { return &c.foreground }),
			Help:   "No effect: the daemon never goes to the background.",
			Manual: `This only gives a warning: the daemon always stays in the foreground.`,
		},
		{
			Name: "thread-pool-size", Arg: "N",
			Value:  count(func(c *Config) *uint64 { return &c.threadPool }),
			Help:   "No effect: every queue has a thread, and slow requests get more threads when they need them.",
			Manual: `No effect: each queue has a thread, and slow requests get more threads when they need them.`,
		},
	}
}

// settleOld applies -d, and notes options that exist for compatibility and do
// nothing. virtiofsd without the option has a thread pool of 0, so that value asks
// for nothing.
func (c *Config) settleOld() {
	if c.debug {
		c.Warn("-d is deprecated: use --log-level=debug")
		c.LogLevel = "debug"
	}
	if c.foreground {
		c.Warn("-f has no effect, and is deprecated: the daemon never goes to the background")
	}
	if c.threadPool > 0 { // libvirt, Kata and others always give it
		c.Note("--thread-pool-size has no effect: every queue has a thread, and slow requests get threads as they need them")
	}
	if c.confirmPaths {
		c.Warn("--migration-confirm-paths has no effect: paths are always confirmed when they are sent")
	}
}

// applyCompat applies the words of -o, the only form that the first virtiofsd had.
func (c *Config) applyCompat() error {
	if len(c.words) == 0 {
		return nil
	}
	c.Note("-o is deprecated: use the options' own names") // Kata, virtme-ng and old libvirt give it
	for _, list := range c.words {
		for word := range strings.SplitSeq(list, ",") {
			if err := c.applyWord(word); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Config) applyWord(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	switch {
	case hasValue:
		return c.applyValue(name, value)
	case c.applySwitch(name):
		return nil
	}
	return fmt.Errorf("-o %s: no such option", word)
}

// applySwitch applies words without a value. The prefix no_ reverses them.
func (c *Config) applySwitch(word string) bool {
	name, off := strings.CutPrefix(word, "no_")
	switches := map[string]*bool{
		"xattr": &c.Xattr, "readdirplus": &c.Readdirplus, "writeback": &c.Writeback,
		"allow_direct_io": &c.AllowDirectIO, "announce_submounts": &c.AnnounceSubmounts, "killpriv_v2": &c.KillprivV2,
	}
	if to, ok := switches[name]; ok {
		*to = !off
		return true
	}
	locks := map[string]**bool{"posix_lock": &c.posixLocks, "flock": &c.flocks}
	if to, ok := locks[name]; ok {
		on := !off
		*to = &on
		return true
	}
	negotiated := map[string]*passthrough.Negotiation{"posix_acl": &c.PosixACL, "security_label": &c.SecurityLabel}
	if to, ok := negotiated[name]; ok {
		*to = passthrough.Always
		if off {
			*to = passthrough.Never
		}
		return true
	}
	if word == "debug" {
		c.LogLevel = "debug"
		return true
	}
	return false
}

func (c *Config) applyValue(name, value string) error {
	switch name {
	case "source":
		c.SharedDir = value
	case "modcaps":
		c.ModCaps = value
	case "cache":
		return applyOneOf(&c.Cache, name, value,
			word[passthrough.CachePolicy]{text: "auto", is: passthrough.CacheAuto},
			word[passthrough.CachePolicy]{text: "always", is: passthrough.CacheAlways},
			word[passthrough.CachePolicy]{text: "none", is: passthrough.CacheNever},
			word[passthrough.CachePolicy]{text: "metadata", is: passthrough.CacheMetadata},
			word[passthrough.CachePolicy]{text: "never", is: passthrough.CacheNever})
	case "sandbox":
		return applyOneOf(&c.Sandbox, name, value, sandboxWords()...)
	case "loglevel", "log_level":
		return applyOneOf(&c.LogLevel, name, value,
			word[string]{text: "debug", is: "debug"}, word[string]{text: "info", is: "info"},
			word[string]{text: "warn", is: "warn"}, word[string]{text: "err", is: "error"})
	case "timeout":
		d, err := parseTime(value)
		if err != nil {
			return fmt.Errorf("-o timeout=%s: %w", value, err)
		}
		c.EntryTimeout, c.AttrTimeout = &d, &d
	case "xattrmap":
		c.XattrRules, c.hasRules = value, true
	default:
		return fmt.Errorf("-o %s=%s: no such option", name, value)
	}
	return nil
}

func applyOneOf[T comparable](to *T, name, value string, words ...word[T]) error {
	v := &choice[T]{to: to, list: words}
	if err := v.Set(value); err != nil {
		return fmt.Errorf("-o %s=%s: %w", name, value, err)
	}
	return nil
}
