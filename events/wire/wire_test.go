package wire

import "testing"

func FuzzParse(f *testing.F) {
	f.Add((&Record{Op: Move, Type: 8, Seq: 7, Nonce: 9, Path: "a/b", NewPath: "c"}).Append(nil))
	f.Add((&Record{Op: Make, Path: "../x"}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := Parse(b)
		if err != nil {
			return
		}
		again := r.Append(nil)
		if len(again) != len(b)-len(rest) || string(again) != string(b[:len(again)]) || len(again) > MaxRecord {
			t.Errorf("%+v is %x, and was %x", r, again, b)
		}
	})
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]bool{"": true, "a": true, "a/b": true, "/a": false, "a/": false, "a//b": false,
		"..": false, "a/../b": false, ".": false, "a\x00": false, "...": true} {
		_, _, err := Parse((&Record{Op: Make, Path: path}).Append(nil))
		if got := err == nil; got != want {
			t.Errorf("%q: %v", path, err)
		}
	}
}
