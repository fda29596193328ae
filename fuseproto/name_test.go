package fuseproto

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("x", NameMax)
	for _, c := range []struct {
		in, name, rest string
		errno          unix.Errno
	}{
		{"a\x00", "a", "", 0},
		{"a\x00b\x00", "a", "b\x00", 0},
		{"...\x00", "...", "", 0},
		{".a\x00", ".a", "", 0},
		{"..a\x00", "..a", "", 0},
		{"\xff\n\x00", "\xff\n", "", 0},
		{long + "\x00", long, "", 0},
		{long + "x\x00", "", "", unix.ENAMETOOLONG},
		{"", "", "", unix.EINVAL},
		{"a", "", "", unix.EINVAL},
		{"\x00", "", "", unix.EINVAL},
		{".\x00", "", "", unix.EINVAL},
		{"..\x00", "", "", unix.EINVAL},
		{"/\x00", "", "", unix.EINVAL},
		{"a/b\x00", "", "", unix.EINVAL},
		{"../x\x00", "", "", unix.EINVAL},
	} {
		name, rest, errno := ParseName([]byte(c.in))
		if errno != c.errno || errno == 0 && (name.String() != c.name || string(rest) != c.rest) {
			t.Errorf("ParseName(%q) = %q, %q, %v", c.in, name, rest, errno)
		}
	}
}

func TestParseString(t *testing.T) {
	s, rest, errno := ParseString([]byte("/a/../b\x00rest"), 100, unix.ENAMETOOLONG)
	if s.String() != "/a/../b" || string(rest) != "rest" || errno != 0 {
		t.Errorf("%q, %q, %v", s, rest, errno)
	}
	if _, _, errno := ParseString([]byte("abc\x00"), 2, unix.ERANGE); errno != unix.ERANGE {
		t.Error(errno)
	}
	for _, bad := range []string{"", "abc", "\x00"} {
		if _, _, errno := ParseString([]byte(bad), 2, unix.ERANGE); errno != unix.EINVAL {
			t.Errorf("%q: %v", bad, errno)
		}
	}
}

// FuzzParseName: a name that passes is one path component.
func FuzzParseName(f *testing.F) {
	f.Add([]byte("a\x00b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, rest, errno := ParseName(b)
		if errno != 0 {
			return
		}
		s := name.String()
		if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") || len(s) > NameMax || len(s)+1+len(rest) != len(b) {
			t.Errorf("%q passes", b)
		}
	})
}
