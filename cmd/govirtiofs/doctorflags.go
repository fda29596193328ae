package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/internal/doctor"
)

// negotiated is an option of the daemon's with never, auto or always: whether it may be on.
type negotiated struct{ on *bool }

func (v negotiated) String() string { return "" }
func (v negotiated) Type() string   { return "string" }

func (v negotiated) Set(s string) error {
	s = strings.ToLower(s)
	if !slices.Contains([]string{"never", "auto", "always"}, s) {
		return fmt.Errorf("want never, auto, always")
	}
	*v.on = s != "never"
	return nil
}

// negotiatedVar declares one; alone it means always.
func negotiatedVar(f *pflag.FlagSet, on *bool, name, usage string) {
	f.Var(negotiated{on}, name, usage)
	f.Lookup(name).NoOptDefVal = "always"
}

// ignored is an option of the daemon's that does not matter to the examination.
type ignored struct{ kind string }

func (ignored) String() string   { return "" }
func (v ignored) Type() string   { return v.kind }
func (ignored) Set(string) error { return nil }

// takeDaemonOptions declares the daemon's other options, so that its command line can be
// given as it is.
func takeDaemonOptions(f *pflag.FlagSet) {
	for _, o := range doctor.DaemonOptions {
		if f.Lookup(o.Name) != nil {
			continue
		}
		kind := "string"
		if o.Bare == "true" {
			kind = "bool"
		}
		f.VarP(ignored{kind}, o.Name, o.Short, "of the daemon")
		flag := f.Lookup(o.Name)
		flag.NoOptDefVal, flag.Hidden = o.Bare, true
	}
}
