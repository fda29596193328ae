package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// compatFlags are the old -o forms without a value, and the option each stands for.
var compatFlags = map[string]string{
	"xattr": "xattr", "readdirplus": "", "no_readdirplus": "no-readdirplus",
	"writeback": "writeback", "allow_direct_io": "allow-direct-io",
	"announce_submounts": "announce-submounts", "no_announce_submounts": "no-announce-submounts",
	"killpriv_v2": "killpriv-v2", "no_killpriv_v2": "no-killpriv-v2",
	"posix_acl": "posix-acl", "security_label": "security-label",
	"posix_lock": "posix-lock", "no_posix_lock": "no-posix-lock",
	"flock": "flock", "no_flock": "no-flock",
	// What is off by default.
	"no_xattr": "", "no_writeback": "", "no_allow_direct_io": "", "no_posix_acl": "", "no_security_label": "",
}

// compatValues are those with a value.
var compatValues = map[string]string{
	"source": "shared-dir", "cache": "cache", "sandbox": "sandbox", "modcaps": "modcaps",
	"loglevel": "log-level", "log_level": "log-level",
}

// applyCompat applies the old forms of options: -o, -d.
func (o *options) applyCompat(f *pflag.FlagSet) error {
	if debug, _ := f.GetBool("debug"); debug {
		o.logLevel = "debug"
	}
	for _, list := range o.compat {
		for _, item := range strings.Split(list, ",") {
			if err := o.applyCompatOne(f, item); err != nil {
				return err
			}
		}
	}
	if len(o.compat) > 0 {
		o.warnings = append(o.warnings, "-o is deprecated, use the options that --help lists")
	}
	return nil
}

func (o *options) applyCompatOne(f *pflag.FlagSet, item string) error {
	name, value, hasValue := strings.Cut(item, "=")
	if item == "debug" {
		o.logLevel = "debug"
		return nil
	}
	if hasValue {
		if name == "timeout" {
			if err := f.Set("entry-timeout", value+"s"); err != nil {
				return fmt.Errorf("-o %s: %w", item, err)
			}
			return f.Set("attr-timeout", value+"s")
		}
		option, ok := compatValues[name]
		if !ok {
			return fmt.Errorf("-o %s: unknown option", item)
		}
		if option == "log-level" && value == "err" {
			value = "error"
		}
		return f.Set(option, value)
	}
	option, ok := compatFlags[name]
	if !ok {
		return fmt.Errorf("-o %s: unknown option", item)
	}
	if option == "" {
		return nil
	}
	if positive, found := strings.CutPrefix(option, "no-"); found && f.Lookup(positive) != nil {
		return f.Set(positive, "false")
	}
	if def := f.Lookup(option).NoOptDefVal; def != "" {
		return f.Set(option, def)
	}
	return f.Set(option, "true")
}
