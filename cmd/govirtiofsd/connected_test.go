package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestIntegrationDescribed: when a front-end connects the log says what is shared and how.
func TestIntegrationDescribed(t *testing.T) {
	for _, box := range sandboxes() {
		dir := tempDir(t)
		d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--readonly", "--sandbox="+box, "--cache=always", "--xattr")
		d.waitLine(waitingLine)
		c := connect(t, dir+"/s")
		d.waitLine(connectedLine)
		d.waitLine("Sharing " + dir + " read-only, sandbox " + box + ", seccomp kill, ")
		line := d.said[len(d.said)-1]
		who := fmt.Sprintf("VMM: process %d of user %d;", os.Getpid(), os.Geteuid())
		if box == "namespace" {
			who = "VMM: a process of user "
		}
		if !strings.Contains(line, who) || !strings.HasSuffix(line, "; options: --cache=always --sandbox="+box+" --xattr") {
			t.Errorf("%s", line)
		}
		d.waitLine("the first ring runs: features 0x")
		c.Close()
		d.wantStatus(exitOK)
	}
}
