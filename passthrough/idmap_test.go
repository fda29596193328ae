package passthrough

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func rules(t testing.TB, list string) *IDMap {
	t.Helper()
	var parsed []IDRule
	for s := range strings.FieldsSeq(list) {
		r, err := ParseIDRule(s)
		if err != nil {
			t.Fatal(err)
		}
		if s != r.String() && strings.ToLower(s) != r.String() {
			t.Errorf("%s reads as %s", s, r)
		}
		parsed = append(parsed, r)
	}
	m, err := NewIDMap(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestIDMap(t *testing.T) {
	const forbidden = noID
	for _, test := range []struct {
		rules         string
		host          bool // the way: guest to host, or back
		from, becomes uint32
	}{
		{"", true, 5, 5},
		{"", false, 5, 5},
		{"", true, noID, noID},
		{"map:0:1000:10", true, 0, 1000},
		{"map:0:1000:10", true, 9, 1009},
		{"map:0:1000:10", true, 10, 10},
		{"map:0:1000:10", false, 1009, 9},
		{"map:0:1000:10", false, 1010, 1010},
		{"map:0:1000:10", false, 999, 999},
		{"map:0:1000:10", false, 0, 0},
		{"map:5:5:0", true, 5, 5},
		{"map:0:0:4294967295", true, 4294967294, 4294967294},
		{"guest:10:20:2", true, 11, 21},
		{"guest:10:20:2", false, 21, 21},
		{"host:10:20:2", true, 20, 20},
		{"host:10:20:2", false, 11, 21},
		{"squash-guest:0:1000:4294967295", true, 4294967294, 1000},
		{"squash-guest:1:1000:4294967295", true, 0, 0},
		{"squash-guest:0:1000:4294967295", true, noID, noID},
		{"squash-guest:0:1000:5", false, 1000, 1000},
		{"squash-host:0:7:4294967295", false, 65534, 7},
		{"squash-host:0:7:10", false, 10, 10},
		{"forbid-guest:5:2", true, 5, forbidden},
		{"forbid-guest:5:2", true, 6, forbidden},
		{"forbid-guest:5:2", true, 7, 7},
		{"forbid-guest:5:2", false, 5, 5},
		{"forbid-guest:5:4294967295", true, 4294967294, forbidden},
		{"forbid-guest:5:0", true, 5, 5},
		// As Incus has it: a container's ids, and nothing else.
		{"map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760", true, 1000, 1000},
		{"map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760", true, 1001, 1001001},
		{"map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760", true, 65536, forbidden},
		{"map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760", false, 1000999, 999},
		{"MAP:0:1:1 Squash-Host:5:6:1", false, 5, 6},
	} {
		m := rules(t, test.rules)
		got := m.Guest(test.from)
		if test.host {
			var ok bool
			if got, ok = m.Host(test.from); ok == (test.becomes == forbidden && test.from != noID) {
				t.Errorf("%q: guest id %d: allowed: %v", test.rules, test.from, ok)
			}
		}
		if got != test.becomes {
			t.Errorf("%q: %d becomes %d, want %d", test.rules, test.from, got, test.becomes)
		}
	}
}

func TestIDRuleErrors(t *testing.T) {
	for rule, says := range map[string]string{
		"":                               `"" is not one of guest, host`,
		"foo:1:2:3":                      `"foo" is not one of`,
		"guest":                          "want guest:FROM:TO:COUNT",
		"guest:0:1":                      "want guest:FROM:TO:COUNT",
		"guest:0:1:2:3":                  "want guest:FROM:TO:COUNT",
		"forbid-guest:0:1:2":             "want forbid-guest:FROM:COUNT",
		"map:a:1:2":                      `"a" is not a number`,
		"map:-1:1:2":                     `"-1" is not a number`,
		"map:1:1:4294967296":             `"4294967296" is not a number`,
		"map:0: 1:2":                     `" 1" is not a number`,
		"map:0:1:4294967295":             "ends above 4294967294",
		"map:1:0:4294967295":             "ends above 4294967294",
		"guest:0:4294967290:10":          "ends above 4294967294",
		"host:4294967295:0:1":            "ends above 4294967294",
		"squash-guest:0:4294967295:5":    "4294967295 is not an id",
		"squash-host:0:4294967295:42949": "4294967295 is not an id",
	} {
		if _, err := ParseIDRule(rule); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", rule, err, says)
		}
	}
}

func TestIDMapOverlap(t *testing.T) {
	for list, says := range map[string]string{
		"guest:0:1000:10 guest:5:1:1":           `"guest:0:1000:10" and "guest:5:1:1" overlap: both cover guest id 5`,
		"host:0:1000:1 host:0:2:1":              "both cover host id 0",
		"map:0:1000:10 host:1005:3:1":           "both cover host id 1005",
		"map:0:5:1 guest:0:6:1":                 "both cover guest id 0",
		"map:0:1000:10 map:20:1009:1":           "both cover host id 1009",
		"forbid-guest:9:1 squash-guest:0:1:10":  "both cover guest id 9",
		"forbid-guest:9:4294967295 guest:9:1:1": "both cover guest id 9",
	} {
		var parsed []IDRule
		for s := range strings.FieldsSeq(list) {
			r, err := ParseIDRule(s)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, r)
		}
		if _, err := NewIDMap(parsed); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", list, err, says)
		}
	}
	// Targets may be the same, and opposite ways have nothing to do with each other.
	rules(t, "guest:0:5:1 guest:1:5:1 host:0:5:1 host:1:5:1 squash-guest:2:5:9 guest:11:5:0 guest:11:6:1 forbid-guest:11:0")
}

func TestIDMapAllocs(t *testing.T) {
	m := rules(t, "map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760")
	if n := testing.AllocsPerRun(100, func() {
		_, _ = m.Host(1000)
		_ = m.Guest(1001001)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestTranslateACL changes what has ids and leaves the rest alone, malformed lists
// included: whether a list is one is the kernel's to say.
func TestTranslateACL(t *testing.T) {
	plus := func(n uint32) func(uint32) (uint32, bool) {
		return func(id uint32) (uint32, bool) { return id + n, id != 13 }
	}
	for _, test := range []struct {
		in, out []byte
		errno   unix.Errno
	}{
		{acl(1, 6, noID, aclUser, 4, 5, 4, 4, noID, aclGroup, 6, 7, 0x10, 6, noID, 0x20, 4, noID),
			acl(1, 6, noID, aclUser, 4, 105, 4, 4, noID, aclGroup, 6, 207, 0x10, 6, noID, 0x20, 4, noID), 0},
		{acl(), acl(), 0},
		{nil, nil, 0},
		{[]byte{1, 0}, []byte{1, 0}, 0},
		{acl(aclUser, 4, 5)[:11], acl(aclUser, 4, 5)[:11], 0},
		{acl(aclUser, 4, 13), acl(aclUser, 4, 13), unix.EPERM},
		{acl(aclGroup, 4, 13), acl(aclGroup, 4, 13), unix.EPERM},
	} {
		got := append([]byte(nil), test.in...)
		if errno := translateACL(got, plus(100), plus(200)); errno != test.errno || string(got) != string(test.out) {
			t.Errorf("%x: %x, %v, want %x, %v", test.in, got, errno, test.out, test.errno)
		}
	}
}

// acl makes an ACL of tag, permissions, id and so on.
func acl(entries ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for i := 0; i < len(entries); i += 3 {
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i]))
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i+1]))
		b = binary.LittleEndian.AppendUint32(b, entries[i+2])
	}
	return b
}

func FuzzIDXattr(f *testing.F) {
	f.Add(acl(1, 6, noID, aclUser, 4, 5))
	f.Add(append([]byte{1, 0, 0, 3}, make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := len(b)
		c := append([]byte(nil), b...)
		_ = translateACL(c, rules(t, "map:0:5:100").Host, nil2ID)
		if root, ok := capRoot(b); ok {
			if n := len(appendCapability(nil, b, root)); n != capXattr2 && n != capXattr3 {
				t.Errorf("%d bytes became %d", size, n)
			}
		}
	})
}

func nil2ID(id uint32) (uint32, bool) { return id, true }

func BenchmarkIDMap(b *testing.B) {
	m := rules(b, "map:0:1000000:1000 map:1000:1000:1 map:1001:1001001:64535 forbid-guest:65536:4294901760")
	for name, m := range map[string]*IDMap{"none": nil, "four rules": m} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var sum uint32
			for i := range b.N {
				sum += m.Guest(uint32(i) & 0x1fffff)
			}
			sink = sum
		})
	}
}

var sink uint32

// TestAccess asks for permissions as users, members of groups and others.
func TestAccess(t *testing.T) {
	needRoot(t)
	g := newShare(t, func(c *Config) { c.GIDs = rules(t, "map:0:100000:1000") }, 0).guest()
	g.write("f", "")
	if err := errors.Join(os.Chown(g.path("f"), 10, 100020), os.Chmod(g.path("f"), 0o640)); err != nil {
		t.Fatal(err)
	}
	n := g.lookup(fp.RootID, "f")
	for _, test := range []struct {
		uid, gid uint32
		groups   []uint32
		mask     uint32
		errno    unix.Errno
	}{
		{0, 0, nil, unix.R_OK | unix.W_OK, 0},
		{0, 0, nil, unix.X_OK, unix.EACCES},
		{10, 10, nil, unix.R_OK | unix.W_OK, 0},
		{11, 20, nil, unix.R_OK, 0},
		{11, 20, nil, unix.W_OK, unix.EACCES},
		{11, 11, []uint32{5, 20}, unix.R_OK, 0},
		{11, 11, []uint32{5, 20}, unix.W_OK, unix.EACCES},
		{11, 11, []uint32{5, 100020}, unix.R_OK, unix.EACCES},
		{11, 11, nil, unix.R_OK, unix.EACCES},
		{11, 11, nil, unix.F_OK, 0},
	} {
		r := g.on(n)
		r.Header.UID, r.Header.GID, r.Groups = test.uid, test.gid, test.groups
		wantErrno(t, fmt.Sprintf("%+v", test), g.fs.Access(r, &fp.AccessIn{Mask: test.mask}), test.errno)
	}
	g.r.Groups = nil
}
