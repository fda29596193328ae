package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// completer is the program as cobra sees it, which completes options and does nothing else:
// the daemon itself needs the options only.
func completer() (*cobra.Command, error) {
	cmd := &cobra.Command{
		Use:               "govirtiofsd",
		Run:               func(*cobra.Command, []string) {},
		ValidArgsFunction: cobra.NoFileCompletions, // every value belongs to an option
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		SilenceErrors:     true,
		SilenceUsage:      true,
	}
	cmd.Flags().AddFlagSet(share.Flags(&share.Config{}))
	return cmd, share.AddCompletion(cmd)
}

// printCompletion writes a script that has the shell ask this program what to offer. The
// shell is one of share.Shells.
func printCompletion(w io.Writer, shell string) error {
	cmd, err := completer()
	if err != nil {
		return err
	}
	switch shell {
	case "bash":
		return cmd.GenBashCompletionV2(w, true)
	case "zsh":
		return cmd.GenZshCompletion(w)
	}
	return cmd.GenFishCompletion(w, true)
}

// asksForWords reports whether a shell asks what to offer, by its script.
func asksForWords(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// offerWords answers a shell.
func offerWords(args []string, stdout, stderr io.Writer) error {
	cmd, err := completer()
	if err != nil {
		return err
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.Execute()
}
