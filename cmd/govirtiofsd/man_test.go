package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/spf13/pflag"
)

// TestManHasEveryOption finds what --help lists in the manual page.
func TestManHasEveryOption(t *testing.T) {
	page, err := os.ReadFile("../../doc/govirtiofsd.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range new(options).groups() {
		g.flags().VisitAll(func(f *pflag.Flag) {
			names := "-" + f.Name
			if f.Shorthand != "" {
				names = "(" + names + "|" + f.Shorthand + ")"
			}
			if !f.Hidden && !regexp.MustCompile(`(?m)\bFl `+names+`( |$)`).Match(page) {
				t.Errorf("doc/govirtiofsd.1 has no .Fl -%s", f.Name)
			}
		})
	}
}
