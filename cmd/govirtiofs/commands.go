package main

import "github.com/spf13/cobra"

// subcommands are the tools, one file each.
func subcommands() []*cobra.Command {
	return []*cobra.Command{
		newBench(),
		newDoctor(),
		newMount(),
		newRelay(),
		newState(),
		newUpgrade(),
		newVsockDevice(),
	}
}
