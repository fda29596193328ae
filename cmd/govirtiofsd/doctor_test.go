package main

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/internal/doctor"
)

// TestDoctorKnowsOptions: "govirtiofs doctor" takes what the daemon takes.
func TestDoctorKnowsOptions(t *testing.T) {
	var want []doctor.DaemonOption
	for _, g := range (&options{}).groups() {
		g.flags().VisitAll(func(f *pflag.Flag) {
			switch f.Name {
			case "print-capabilities", "completion", "version", "help": // these share nothing
			default:
				want = append(want, doctor.DaemonOption{Name: f.Name, Short: f.Shorthand, Bare: f.NoOptDefVal})
			}
		})
	}
	for _, o := range want {
		if !slices.Contains(doctor.DaemonOptions, o) {
			t.Errorf("doctor.DaemonOptions has no %+v", o)
		}
	}
	for _, o := range doctor.DaemonOptions {
		if !slices.Contains(want, o) {
			t.Errorf("doctor.DaemonOptions has %+v, which is not the daemon's", o)
		}
	}
}
