package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

func TestDoctorUsage(t *testing.T) {
	for _, args := range [][]string{
		{"doctor", "surplus"},
		{"doctor", "--nonsense"},
		{"doctor", "--sandbox", "jail"},
		{"doctor", "--seccomp=maybe"},
		{"doctor", "--posix-acl=perhaps"},
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

// TestDoctorTakesDaemonOptions gives the doctor each option in each of its spellings.
func TestDoctorTakesDaemonOptions(t *testing.T) {
	for _, g := range share.Groups() {
		for _, o := range g.Options {
			for _, args := range spellings(&o) {
				cmd := newDoctor()
				if err := cmd.ParseFlags(append(args, "--json")); err != nil {
					t.Errorf("%v: %v", args, err)
				} else if json, _ := cmd.Flags().GetBool("json"); !json {
					t.Errorf("%v took the next argument for its value", args)
				}
				if left := cmd.Flags().Args(); len(left) > 0 {
					t.Errorf("%v left %v behind", args, left)
				}
			}
		}
	}
}

// TestDoctorCompletes: values of the daemon's options are completed as for the daemon.
func TestDoctorCompletes(t *testing.T) {
	for option, want := range map[string]string{"--sandbox": "namespace\nchroot\nnone\n:36\n", "--tag": ":36\n", "--shared-dir": ":16\n"} {
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(io.Discard)
		root.SetArgs([]string{"__completeNoDesc", "doctor", option, ""})
		if err := root.Execute(); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v, want %q", option, out.String(), err, want)
		}
	}
}

func spellings(o *share.Option) (all [][]string) {
	if o.Alone { // these share nothing
		return nil
	}
	value := "word"
	if words := o.Words(); o.Doctor && words != nil {
		value = words[0]
	}
	switch o.WithoutValue() {
	case "":
		all = [][]string{{"--" + o.Name, value}, {"--" + o.Name + "=" + value}}
	case "true":
		all = [][]string{{"--" + o.Name}}
	default:
		all = [][]string{{"--" + o.Name}, {"--" + o.Name + "=auto"}, {"--" + o.Name + "=Never"}}
	}
	if o.Off != "" {
		all = append(all, []string{"--" + o.Off})
	}
	if o.Short != "" && o.WithoutValue() == "" {
		all = append(all, []string{"-" + o.Short, value})
	} else if o.Short != "" {
		all = append(all, []string{"-" + o.Short})
	}
	return all
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
