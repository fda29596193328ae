package main

import (
	"slices"
	"strings"
)

// applyCompat applies the words of -o, the only form that the first virtiofsd had.
func (o *options) applyCompat() error {
	if len(o.compat) == 0 {
		return nil
	}
	o.note("-o is deprecated: use the options' own names") // Kata, virtme-ng and old libvirt give it
	for _, list := range o.compat {
		for word := range strings.SplitSeq(list, ",") {
			if err := o.applyWord(word); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *options) applyWord(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	switch {
	case hasValue:
		return o.applyValue(name, value)
	case o.applySwitch(name):
		return nil
	}
	return usagef("-o %s: no such option", word)
}

// applySwitch applies words without a value, which no_ turns around.
func (o *options) applySwitch(word string) bool {
	name, off := strings.CutPrefix(word, "no_")
	switches := map[string]*bool{
		"xattr": &o.xattr, "readdirplus": &o.readdirplus, "writeback": &o.writeback,
		"allow_direct_io": &o.directIO, "announce_submounts": &o.submounts, "killpriv_v2": &o.killpriv,
	}
	if to, ok := switches[name]; ok {
		*to = !off
		return true
	}
	locks := map[string]**bool{"posix_lock": &o.hostLocks.posix, "flock": &o.hostLocks.flock}
	if to, ok := locks[name]; ok {
		on := !off
		*to = &on
		return true
	}
	negotiated := map[string]*string{"posix_acl": &o.posixACL, "security_label": &o.label}
	if to, ok := negotiated[name]; ok {
		*to = "always"
		if off {
			*to = "never"
		}
		return true
	}
	if word == "debug" {
		o.logLevel = "debug"
		return true
	}
	return false
}

func (o *options) applyValue(name, value string) error {
	oneOf := func(to *string, words ...string) error {
		if !slices.Contains(words, strings.ToLower(value)) {
			return usagef("-o %s=%s: want %s", name, value, strings.Join(words, ", "))
		}
		*to = strings.ToLower(value)
		return nil
	}
	switch name {
	case "source":
		o.sharedDir = value
	case "modcaps":
		o.modcaps = value
	case "cache":
		err := oneOf(&o.cache, "auto", "always", "none", "metadata", "never")
		if o.cache == "none" {
			o.cache = "never"
		}
		return err
	case "sandbox":
		return oneOf(&o.sandbox, "namespace", "chroot", "none")
	case "loglevel", "log_level":
		err := oneOf(&o.logLevel, "debug", "info", "warn", "err")
		if o.logLevel == "err" {
			o.logLevel = "error"
		}
		return err
	case "timeout":
		d, err := parseTimeout(value)
		if err != nil {
			return usagef("-o timeout=%s: %v", value, err)
		}
		o.entryTimeout, o.attrTimeout = &d, &d
	case "xattrmap":
		o.xattrmap, o.hasXattrmap = value, true
	default:
		return usagef("-o %s=%s: no such option", name, value)
	}
	return nil
}
