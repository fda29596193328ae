package share

import (
	"bufio"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// AddCompletion tells cobra what a shell offers for the values of the options of cmd.
func AddCompletion(cmd *cobra.Command) error {
	for _, g := range Groups() {
		for _, o := range g.Options {
			if cmd.Flags().Lookup(o.Name) == nil || o.isSwitch() {
				continue
			}
			if err := cmd.RegisterFlagCompletionFunc(o.Name, o.offers()); err != nil {
				return err
			}
		}
	}
	return nil
}

// offers is what a shell offers for the value.
func (o *Option) offers() cobra.CompletionFunc {
	words := o.Words()
	if words == nil {
		words = o.Suggest
	}
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		switch o.Complete {
		case CompleteDirectory:
			return nil, cobra.ShellCompDirectiveFilterDirs
		case CompleteFile:
			return nil, cobra.ShellCompDirectiveDefault
		case CompleteGroup:
			return groups("/etc/group"), cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// groups are the names of a file in the format of group(5). There are none if
// it can't be read.
func groups(path string) (names []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, _, ok := strings.Cut(s.Text(), ":"); ok && !strings.HasPrefix(name, "+") {
			names = append(names, name)
		}
	}
	return names
}
