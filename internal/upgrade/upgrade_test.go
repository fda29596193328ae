package upgrade

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	v := Versions{Program: "govirtiofsd 1.2 of a day", Ledger: 7, Reads: 5, Keeper: 2}
	if got, err := Parse(v.String() + "more 1\n"); err != nil || got != v {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{
		"", "virtiofsd 1.13.0\n", strings.ReplaceAll(v.String(), "program", "programs"),
		strings.ReplaceAll(v.String(), "7", "seven"), strings.ReplaceAll(v.String(), "reads", "ledger"),
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestFits(t *testing.T) {
	old := Versions{Program: "old", Ledger: 5, Reads: 4, Keeper: 2}
	for _, test := range []struct {
		now  Versions
		fits bool
	}{
		{old, true},
		{Versions{Ledger: 6, Reads: 5, Keeper: 2}, true},
		{Versions{Ledger: 6, Reads: 6, Keeper: 2}, false}, // does not read it
		{Versions{Ledger: 4, Reads: 1, Keeper: 2}, false}, // older
		{Versions{Ledger: 5, Reads: 5, Keeper: 3}, false},
	} {
		if err := test.now.Fits(old); (err == nil) != test.fits {
			t.Errorf("%+v: %v", test.now, err)
		}
	}
}

func TestAsk(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	v := Versions{Program: "p 1", Ledger: 1, Reads: 1, Keeper: 1}
	if got, err := Ask(script("cat <<'X'\n" + v.String() + "X\n")); err != nil || got != v {
		t.Errorf("%+v, %v", got, err)
	}
	for _, path := range []string{script("exit 3"), script("kill -9 $$"), script("echo something else"), filepath.Join(t.TempDir(), "none")} {
		if got, err := Ask(path); err == nil {
			t.Errorf("%s: %+v", path, got)
		}
	}
}
