package main

import (
	"errors"
	"strings"
	"testing"
)

// TestRelayUsage: mistakes on the command line are reported before anything is started.
func TestRelayUsage(t *testing.T) {
	for line, want := range map[string]string{
		"relay": "give the PROGRAM and its arguments after the options",
		"relay --socket-path /run/s -- sshfs host:":                      "do not have {mount}",
		"relay -- sshfs host: {mount}":                                   "no way to reach a front-end",
		"relay --mount /mnt --socket-path /run/s -- sshfs host: {mount}": "--mount and --socket-path exclude each other",
		"relay --mount /mnt --tag x -- sshfs host: {mount}":              "--mount and --tag exclude each other",
		"relay --mount /mnt --seccomp none -- sshfs host: {mount}":       "--mount and --seccomp exclude each other",
		"relay --mount /mnt --events auto -- sshfs host: {mount}":        "--mount and --events exclude each other",
		"relay --socket-path /run/s --events x -- sshfs host: {mount}":   "--events",
		"help nosuch": `unknown command "nosuch"`,
		"relay --socket-path /run/s --fd 3 -- sshfs host: {mount}":                                         "--fd and --socket-path exclude each other",
		"relay --socket-path /run/s --request-timeout=-1 -- sshfs host: {mount}":                           "1 to 86400 seconds are possible",
		"relay --socket-path /run/s --stop-timeout=0 -- sshfs host: {mount}":                               "1 to 3600 seconds are possible",
		"relay --socket-path /run/s --program-pid=1 -- lxcfs {mount}":                                      "none or self are possible",
		"relay --socket-path /run/s --program-pid=self -- lxcfs /dev/fd/{fd}":                              "write {mount} instead of {fd}",
		"relay --socket-path /run/s --program-sandbox=x -- sshfs host: {mount}":                            "auto, namespace or none are possible",
		"relay --socket-path /run/s --program-capabilities=fly -- sshfs host: {mount}":                     `"fly" is no capability`,
		"relay --socket-path /run/s --program-sandbox=none --program-network=false -- sshfs host: {mount}": "needs a sandbox",
		"relay --socket-pth /run/s -- sshfs host: {mount}":                                                 "did you mean --socket-path?",
		"relay --socket-path /run/s --seccomp=x -- sshfs host: {mount}":                                    "--seccomp",
	} {
		root := newRoot()
		wrapHelp(root)
		root.SetArgs(strings.Fields(line))
		err := root.Execute()
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a mistake on the command line with %q", line, err, want)
		}
	}
}
