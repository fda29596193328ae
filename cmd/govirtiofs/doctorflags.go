package main

import (
	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// ignored is an option of the daemon's that does not matter to the examination.
type ignored struct{ kind string }

func (ignored) String() string   { return "" }
func (v ignored) Type() string   { return v.kind }
func (ignored) Set(string) error { return nil }

// takeDaemonOptions declares the daemon's options, so that its command line can be given
// as it is. Those that matter fill c; the others have any value, and help does not show
// them.
func takeDaemonOptions(f *pflag.FlagSet, c *share.Config) {
	for _, g := range share.Groups() {
		for _, o := range g.Options {
			switch {
			case o.Alone || f.Lookup(o.Name) != nil:
			case o.Doctor:
				o.Declare(f, c)
				f.Lookup(o.Name).Usage = daemonUsage(&o)
			default:
				ignore(f, &o)
			}
		}
	}
}

func daemonUsage(o *share.Option) string {
	if arg := o.ArgWord(); arg != "" {
		return "the daemon's --" + o.Name + " `" + arg + "`"
	}
	return "the daemon has --" + o.Name
}

func ignore(f *pflag.FlagSet, o *share.Option) {
	kind := "string"
	if o.WithoutValue() == "true" {
		kind = "bool"
	}
	for _, name := range []string{o.Name, o.Off} {
		if name == "" {
			continue
		}
		f.VarP(ignored{kind}, name, o.Short, "of the daemon")
		flag := f.Lookup(name)
		flag.NoOptDefVal, flag.Hidden = o.WithoutValue(), true
	}
}
