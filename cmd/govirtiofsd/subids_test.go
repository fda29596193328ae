package main

import (
	"slices"
	"testing"
)

func TestSubordinateIDs(t *testing.T) {
	const text = "root:1:2\nalice:100000:65536\n#bob:5:5\n1000:300000:10\nalice:x:5\nalice:1\nalice:7:0\nalice:5000000000:1\nal:9:9\n"
	want := []idRange{{100000, 65536}, {300000, 10}}
	if got := subordinateIDs(text, "alice", "1000"); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := idMapHint("--uid-map", "/etc/subuid", "--add-subuids", "1000", "alice", want); got !=
		"--uid-map: user alice has, by /etc/subuid: --uid-map=:0:1000:1: --uid-map=:1:100000:65536: --uid-map=:65537:300000:10:" {
		t.Error(got)
	}
	if got := idMapHint("--uid-map", "/etc/subuid", "--add-subuids", "1000", "alice", nil); got !=
		"--uid-map: /etc/subuid has no ids for user alice: only :INSIDE:1000:1: is allowed. Root adds some: usermod --add-subuids 100000-165535 alice" {
		t.Error(got)
	}
}
