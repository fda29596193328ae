package share

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the manual's list of options into doc/govirtiofsd.1")

const (
	manualPage  = "../../doc/govirtiofsd.1"
	manualBegin = ".\\\" Options: written by go test ./internal/share -update\n"
	manualEnd   = ".\\\" End of the options\n"
)

// TestManual: the manual's list of options matches the table.
func TestManual(t *testing.T) {
	page, err := os.ReadFile(manualPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), manualBegin)
	old, after, ok2 := strings.Cut(rest, manualEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no lines %q and %q", manualPage, manualBegin, manualEnd)
	}
	var b bytes.Buffer
	WriteManual(&b)
	if *update {
		if err := os.WriteFile(manualPage, []byte(before+manualBegin+b.String()+manualEnd+after), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != b.String() {
		t.Errorf("%s does not list the options as they are: run go test ./internal/share -update", manualPage)
	}
}

func TestHelp(t *testing.T) {
	var b bytes.Buffer
	WriteHelp(&b)
	for line := range strings.Lines(b.String()) {
		if len(line) > 84 {
			t.Errorf("long line: %s", line)
		}
		if strings.ContainsAny(line, "`{}") {
			t.Errorf("left over: %s", line)
		}
	}
}

// each calls f with every row of the table.
func each(f func(g *Group, i int, o *Option)) {
	for _, g := range Groups() {
		for i := range g.Options {
			f(&g, i, &g.Options[i])
		}
	}
}

// TestTable: the rows are consistent.
func TestTable(t *testing.T) {
	names, fields := map[string]bool{}, map[any]string{}
	c := &Config{}
	each(func(_ *Group, i int, o *Option) {
		for _, n := range []string{o.Name, o.Off, o.Short} {
			if n != "" && names[n] {
				t.Errorf("%s: two options have the name", n)
			}
			names[n] = true
		}
		if !strings.HasSuffix(o.Text(), ".") && !strings.HasSuffix(o.Text(), "...") || strings.Contains(o.Summary(), ". ") {
			t.Errorf("--%s: %q is not made of sentences", o.Name, o.Help)
		}
		if strings.HasPrefix(o.Manual, "\n") || strings.HasSuffix(o.Manual, "\n") || strings.Contains(o.Manual, "\n\n") {
			t.Errorf("--%s: empty lines in the manual's text", o.Name)
		}
		if o.Joined && (i == 0 || o.Manual != "") {
			t.Errorf("--%s: the option before has the manual's text", o.Name)
		}
		takes := !o.isSwitch()
		if takes != (o.ArgWord() != "") || !takes && (o.Complete != CompleteNothing || o.Suggest != nil) {
			t.Errorf("--%s: has a value: %v; but it is called %q", o.Name, takes, o.ArgWord())
		}
		if o.Off != "" && takes || o.Bare != "" && !slices.Contains(o.Words(), o.Bare) {
			t.Errorf("--%s: bare %q, undone by %q", o.Name, o.Bare, o.Off)
		}
		field := reflect.ValueOf(o.Value(c))
		if field.Kind() == reflect.Pointer {
			field = field.Elem()
		}
		to := field.FieldByName("to").Pointer()
		if other := fields[to]; other != "" {
			t.Errorf("--%s and --%s have one field", o.Name, other)
		}
		fields[to] = o.Name
	})
}

// TestDefaults: an option that is not given means its default.
func TestDefaults(t *testing.T) {
	parsed := func(args ...string) *Config {
		c, err := Parse(slices.Concat(usual, args), false)
		if err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		c.Given = nil
		return c
	}
	each(func(_ *Group, _ int, o *Option) {
		if o.Default == "" || o.Name == "fd" {
			return
		}
		if got, want := parsed("--"+o.Name+"="+o.Default), parsed(); !reflect.DeepEqual(withoutWarnings(got), want) {
			t.Errorf("--%s=%s:\n got %+v\nwant %+v", o.Name, o.Default, got, want)
		}
	})
}

func withoutWarnings(c *Config) *Config {
	c.Warnings = nil // drops the warning that --dax-min-size has no effect
	return c
}

// TestFromObject fills a configuration by the options' names, as from a file.
func TestFromObject(t *testing.T) {
	const file = `{"shared-dir": "/srv", "socket-path": "/run/s", "readonly": true, "cache": "never", "direct-io": ["*.db", "*.img"],
		"entry-timeout": 1.5, "announce-submounts": false, "dax-window-size": "64M", "rlimit-nofile": 5000, "posix-acl": "auto"}`
	var object map[string]any
	d := json.NewDecoder(strings.NewReader(file))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		t.Fatal(err)
	}
	got := &Config{}
	set := Flags(got)
	for key, value := range object {
		values, isList := value.([]any)
		if !isList {
			values = []any{value}
		}
		for _, v := range values {
			if err := set.Set(key, fmt.Sprint(v)); err != nil {
				t.Fatalf("%s: %v", key, err)
			}
		}
	}
	if err := got.Settle(set, false); err != nil {
		t.Fatal(err)
	}
	want, err := Parse(strings.Fields(`--shared-dir /srv --socket-path /run/s --readonly --cache=never --direct-io=*.db --direct-io *.img
		--entry-timeout 1.5 --announce-submounts=false --dax-window-size 64M --rlimit-nofile 5000 --posix-acl=auto`), false)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestGiven: the log has the given options, in a form that can be given again.
func TestGiven(t *testing.T) {
	for args, want := range map[string]string{
		"--xattr --cache=ALWAYS":                                                      "--cache=always --xattr",
		"--no-readdirplus --busy-poll=50,20":                                          "--busy-poll=50µs,20 --no-readdirplus",
		"--busy-poll 0 --posix-acl":                                                   "--busy-poll=0 --posix-acl=always",
		"--entry-timeout 1.5 --dax-window-size 4M":                                    "--dax-window-size=4M --entry-timeout=1.5s",
		"--rlimit-nofile 0 --readdirplus":                                             "--readdirplus --rlimit-nofile=0",
		"--inode-file-handles=fallback":                                               "--inode-file-handles=fallback",
		"--direct-io a --direct-io b --no-cache-symlinks --cache-symlinks --readonly": "--cache-symlinks --direct-io=a,b --no-cache-symlinks=false",
	} {
		c, err := Parse(slices.Concat(usual, strings.Fields(args)), false)
		if err != nil || strings.Join(c.Given, " ") != want {
			t.Errorf("%s: %v, %v, want %s", args, c.Given, err, want)
			continue
		}
		if _, err := Parse(slices.Concat(usual, c.Given), false); err != nil && !strings.Contains(args, "--direct-io") {
			t.Errorf("%v: %v", c.Given, err)
		}
	}
}

// TestCompletion: every option with a value offers values or nothing. It offers file
// names only where the value is a file.
func TestCompletion(t *testing.T) {
	cmd := &cobra.Command{Use: "x"}
	cmd.Flags().AddFlagSet(Flags(&Config{}))
	if err := AddCompletion(cmd); err != nil {
		t.Fatal(err)
	}
	each(func(_ *Group, _ int, o *Option) {
		if o.isSwitch() {
			return
		}
		f, ok := cmd.GetFlagCompletionFunc(o.Name)
		if !ok {
			t.Errorf("--%s offers nothing", o.Name)
			return
		}
		words, directive := f(cmd, nil, "")
		files := directive&cobra.ShellCompDirectiveNoFileComp == 0
		if files != (o.Complete == CompleteFile || o.Complete == CompleteDirectory) {
			t.Errorf("--%s: directive %d", o.Name, directive)
		}
		for _, w := range words {
			if o.Complete == CompleteGroup {
				continue
			}
			if err := o.Value(&Config{}).Set(w); err != nil {
				t.Errorf("--%s offers %q: %v", o.Name, w, err)
			}
		}
	})
	if f, _ := cmd.GetFlagCompletionFunc("inode-file-handles"); f != nil {
		if words, _ := f(cmd, nil, ""); slices.Contains(words, "fallback") {
			t.Error("a deprecated word is offered")
		}
	}
}

func TestGroups(t *testing.T) {
	file := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(file, []byte("root:x:0:\n+nis::\nkvm:x:36:joe\nbroken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := groups(file); !slices.Equal(got, []string{"root", "kvm"}) {
		t.Errorf("got %q", got)
	}
	if got := groups(file + "x"); got != nil {
		t.Errorf("got %q", got)
	}
}

// TestDeclareTwice: two configurations have no data in common.
func TestDeclareTwice(t *testing.T) {
	var a, b Config
	sa, sb := Flags(&a), Flags(&b)
	for set, value := range map[*pflag.FlagSet]string{sa: "/a", sb: "/b"} {
		if err := set.Set("shared-dir", value); err != nil {
			t.Fatal(err)
		}
	}
	if a.SharedDir != "/a" || b.SharedDir != "/b" {
		t.Errorf("%q, %q", a.SharedDir, b.SharedDir)
	}
}
