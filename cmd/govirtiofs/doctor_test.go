package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
)

func TestDoctorUsage(t *testing.T) {
	for _, args := range [][]string{
		{"doctor", "surplus"},
		{"doctor", "--nonsense"},
		{"doctor", "--sandbox", "jail"},
		{"doctor", "--seccomp=maybe"},
		{"doctor", "--tag", "data"},
		{"doctor", "--probe"},
		{"doctor", "--guest", "--shared-dir", "/srv"},
		{"doctor", "--pid", "many"},
		{"doctor", "--ownership", "guest"},
		{"doctor", "--ownership=xattr", "--posix-acl"},
		{"doctor", "--dax=yes"},
		{"doctor", "--modcaps=sys_admin"},
		{"doctor", "--xattrmap", "selinux"},
		{"doctor", "--xattrmap-preset=none-such"},
		{"doctor", "--xattrmap-preset=selinux", "--xattrmap", ":ok:all:::"},
	} {
		if got := run(args); got != 2 {
			t.Errorf("%v: exit status %d, want 2", args, got)
		}
	}
}

// TestDoctorFails has nothing to share, which no machine can mend.
func TestDoctorFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs([]string{"doctor", "--json", "--shared-dir", missing})
	if err := root.Execute(); !errors.Is(err, errUnwell) {
		t.Errorf("got %v, want %v", err, errUnwell)
	}
	var r struct {
		Status string
		Checks []struct{ Check, Status, Remedy string }
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if r.Status != "fail" {
		t.Errorf("status %q", r.Status)
	}
	for _, c := range r.Checks {
		if c.Check == "share" && c.Status == "fail" && c.Remedy == "mkdir -p "+missing {
			return
		}
	}
	t.Errorf("no word about the missing directory:\n%s", out.String())
}
