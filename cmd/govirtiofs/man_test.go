package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManHasEveryOption finds each command and option in the manual page.
func TestManHasEveryOption(t *testing.T) {
	b, err := os.ReadFile("../../doc/govirtiofs.1")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Fields(strings.ReplaceAll(string(b), "\n.", "\n"))
	has := func(words ...string) bool {
		for i := range page {
			if i+len(words) <= len(page) && strings.Join(page[i:i+len(words)], " ") == strings.Join(words, " ") {
				return true
			}
		}
		return false
	}
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		if c.HasParent() && !has("Cm", c.Name()) {
			t.Errorf("doc/govirtiofs.1 has no .Cm %s", c.Name())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !has("Fl", "-"+f.Name) {
				t.Errorf("doc/govirtiofs.1 has no .Fl -%s, of %s", f.Name, c.Name())
			}
		})
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(newRoot())
}
