package xattrmap

import (
	"bytes"
	"strings"
	"testing"
)

// names of the guest to those of the host, "EPERM" or "ENOTSUP"; and of the host to
// those of the guest, "" for hidden ones.
type names map[string]string

var mapTests = []struct {
	what, rules     string
	toHost, toGuest names
}{
	{"let all through", ":ok:all:::",
		names{"user.a": "user.a", "x": "x"}, names{"user.a": "user.a"}},
	{"move all", ":prefix:all::user.virtiofs.::bad:all:::",
		names{"user.a": "user.virtiofs.user.a", "security.capability": "user.virtiofs.security.capability"},
		names{"user.virtiofs.user.a": "user.a", "user.a": "", "user.virtiofs.": "", "security.selinux": ""}},
	{"map all", ":map::user.virtiofs.:",
		names{"user.virtiofs.x": "user.virtiofs.user.virtiofs.x"}, names{"user.virtiofs.a": "a", "user.a": ""}},
	{"move a part, with lines and another separator",
		"/prefix/all/trusted./user.virtiofs./\n\t /bad/server//trusted./\n/bad/client/user.virtiofs.//\n/ok/all///\n",
		names{"trusted.a": "user.virtiofs.trusted.a", "user.virtiofs.trusted.a": "EPERM", "user.a": "user.a"},
		names{"user.virtiofs.trusted.a": "trusted.a", "trusted.a": "", "user.a": "user.a"}},
	{"map a part", "/map/trusted./user.virtiofs./",
		names{"trusted.a": "user.virtiofs.trusted.a", "user.virtiofs.trusted.a": "EPERM", "user.a": "user.a"},
		names{"user.virtiofs.trusted.a": "trusted.a", "trusted.a": "", "user.a": "user.a"}},
	{"hide security", "/bad/all/security./security./ /ok/all///",
		names{"security.selinux": "EPERM", "security": "security"}, names{"security.ima": "", "user.a": "user.a"}},
	{"unsupported", ":unsupported:all:security.:security.::ok:all:::",
		names{"security.selinux": "ENOTSUP", "user.a": "user.a"}, names{"security.ima": "", "user.a": "user.a"}},
	{"the first rule counts", ":ok:all:user.a:user.a::bad:all:user.:user.::ok:all:::",
		names{"user.ab": "user.ab", "user.b": "EPERM"}, names{"user.ab": "user.ab", "user.b": ""}},
	{"one rule for each direction", ":ok:client:::  :bad:server:::",
		names{"a": "a"}, names{"a": ""}},
	{"rules with separators of their own", "zokzallzzz", names{"user.x": "user.x"}, names{"user.x": "user.x"}},
	{"separator of several bytes", "→ok→all→→→", names{"user.x": "user.x"}, names{"user.x": "user.x"}},
	{"map with a key only", ":map:user.::",
		names{"user.a": "user.a", "trusted.a": "EPERM"}, names{"user.a": "user.a", "trusted.a": "trusted.a"}},
	{"blanks in a name belong to it", ":bad:all: a: a: :ok:all:::",
		names{" ab": "EPERM", "ab": "ab"}, names{" ab": "", "ab": "ab"}},
}

func (n names) checkToHost(t *testing.T, what string, m *Map) {
	t.Helper()
	for guest, want := range n {
		for _, nul := range []string{"", "\x00"} {
			prepend, v := m.ToHost([]byte(guest + nul))
			got := map[Verdict]string{Pass: prepend + guest, Deny: "EPERM", Unsupported: "ENOTSUP"}[v]
			if got != want {
				t.Errorf("%s: %q of the guest is %q, want %q", what, guest, got, want)
			}
		}
	}
}

func (n names) checkToGuest(t *testing.T, what string, m *Map) {
	t.Helper()
	for host, want := range n {
		for _, nul := range []string{"", "\x00"} {
			got := ""
			if strip, visible := m.ToGuest([]byte(host + nul)); visible {
				got = host[strip:]
			}
			if got != want {
				t.Errorf("%s: %q on the host is %q, want %q", what, host, got, want)
			}
		}
	}
}

func TestMap(t *testing.T) {
	for _, c := range mapTests {
		m, err := Parse(c.rules)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		c.toHost.checkToHost(t, c.what, m)
		c.toGuest.checkToGuest(t, c.what, m)
	}
}

func TestPresets(t *testing.T) {
	for _, c := range []struct {
		list            string
		toHost, toGuest names
	}{
		{"selinux",
			names{"security.selinux": "trusted.virtiofs.security.selinux", "trusted.virtiofs.security.selinux": "EPERM",
				"security.capability": "security.capability", "trusted.a": "trusted.a"},
			names{"trusted.virtiofs.security.selinux": "security.selinux", "security.selinux": "",
				"security.capability": "security.capability", "trusted.a": "trusted.a"}},
		{"selinux-user",
			names{"security.selinux": "user.virtiofs.security.selinux", "user.virtiofs.security.selinux": "EPERM", "user.a": "user.a"},
			names{"user.virtiofs.security.selinux": "security.selinux", "security.selinux": "", "user.a": "user.a"}},
		{"no-selinux", names{"security.selinux": "ENOTSUP", "user.a": "user.a"}, names{"security.selinux": "", "user.a": "user.a"}},
		{"overlayfs",
			names{"trusted.overlay.opaque": "user.virtiofs.trusted.overlay.opaque", "user.virtiofs.trusted.overlay.opaque": "EPERM",
				"security.selinux": "security.selinux"},
			names{"user.virtiofs.trusted.overlay.opaque": "trusted.overlay.opaque", "trusted.overlay.opaque": ""}},
		{"Overlayfs,SELinux",
			names{"security.selinux": "trusted.virtiofs.security.selinux", "trusted.overlay.opaque": "user.virtiofs.trusted.overlay.opaque",
				"trusted.virtiofs.security.selinux": "EPERM", "user.virtiofs.trusted.virtiofs.security.selinux": "EPERM"},
			names{"trusted.virtiofs.security.selinux": "security.selinux", "user.virtiofs.trusted.overlay.opaque": "trusted.overlay.opaque",
				"security.selinux": "", "trusted.overlay.opaque": ""}},
		{"separate", names{"user.a": "user.virtiofs.user.a"}, names{"user.a": "", "user.virtiofs.user.a": "user.a"}},
	} {
		m, err := Preset(c.list)
		if err != nil {
			t.Errorf("%s: %v", c.list, err)
			continue
		}
		c.toHost.checkToHost(t, c.list, m)
		c.toGuest.checkToGuest(t, c.list, m)
	}
	for list, want := range map[string]string{
		"":                   "unknown preset",
		"selinux,":           "unknown preset",
		"fedora":             "want selinux, selinux-user, no-selinux, overlayfs, separate",
		"separate,overlayfs": "can't be with others",
		"selinux,no-selinux": "exclude each other",
	} {
		if _, err := Preset(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", list, err, want)
		}
	}
}

func TestUses(t *testing.T) {
	for list, want := range map[string]bool{"selinux": true, "overlayfs": false, "selinux,overlayfs": true} {
		m, err := Preset(list)
		if err != nil || m.Uses("trusted.") != want {
			t.Errorf("%s: %v, %v", list, m.Uses("trusted."), err)
		}
	}
}

// TestErrors: each says where the mistake is and what would be right.
func TestErrors(t *testing.T) {
	for rules, want := range map[string]string{
		"":                              "no rules",
		" \n\t":                         "no rules",
		":":                             `rule 1, at byte 2: TYPE has no ":" after it`,
		":ok:all:::\n :prefix":          `rule 2, at byte 14: TYPE has no ":"`,
		":ok:all::":                     `rule 1, at byte 10: PREPEND has no ":" after it: a rule is :TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:`,
		"/ok/all":                       `a rule is /TYPE/SCOPE/KEY/PREPEND/ or /map/KEY/PREPEND/`,
		":okay:all:::":                  `rule 1, at byte 2: unknown type "okay": want prefix, ok, bad, unsupported or map`,
		":OK:all:::":                    `unknown type "OK"`,
		"::all:::":                      `unknown type ""`,
		":ok:both:::":                   `rule 1, at byte 5: unknown scope "both": want client, server or all`,
		":map::user.v.::ok:all:::":      `rule 2, at byte 15: rule 1 is a map rule, which must be the last`,
		":map:a:b::map:a:b:":            `must be the last`,
		":prefix:all:trusted.:user.v.:": `names from the guest and on the host without a rule: end with ":ok:all:::"`,
		":ok:client:::":                 `from the host without a rule: end with ":ok:server:::" to let them through or ":bad:server:::"`,
		":ok:server:::":                 `from the guest without a rule: end with ":ok:client:::"`,
		":ok:all:user.::":               `from the guest without a rule`,
		":ok:all::user.:":               `from the host without a rule`,
		":ok:all:\x00::":                `rule 1, at byte 9: KEY has a NUL`,
		":ok:all::" + strings.Repeat("x", 256) + ":": `rule 1, at byte 10: PREPEND has 256 bytes`,
		":ok:all::: x": `rule 2, at byte 12: a rule begins with the character that separates its fields, which is not meant to be "x"`,
		"sok:all:::":   `rule 1, at byte 1: a rule begins with the character that separates its fields, which is not meant to be "s": write :TYPE:SCOPE`,
	} {
		if _, err := Parse(rules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", rules, err, want)
		}
	}
}

// TestAllocations: mapping a name costs no memory.
func TestAllocations(t *testing.T) {
	m, err := Preset("selinux,overlayfs")
	if err != nil {
		t.Fatal(err)
	}
	name := []byte("trusted.overlay.opaque\x00")
	if n := testing.AllocsPerRun(100, func() { m.ToHost(name); m.ToGuest(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: what is accepted maps every name in both directions; a name that passes
// comes back as it went, unless another rule gets hold of it.
func FuzzParse(f *testing.F) {
	for _, c := range mapTests {
		f.Add(c.rules, "user.a")
	}
	for _, p := range presets {
		f.Add(p.rules+":ok:all:::", "security.selinux")
	}
	f.Add(":map:user.::", "trusted.x")
	f.Add("\xffok\xffall\xff\xff\xff", "a")
	f.Add(":ok:all:::\x00", "a")
	f.Fuzz(func(t *testing.T, rules, name string) {
		m, err := Parse(rules)
		if err != nil {
			if m != nil || err.Error() == "" {
				t.Error("an error with a map, or without words")
			}
			return
		}
		if m.complete() != nil {
			t.Error("an incomplete map")
		}
		prepend, v := m.ToHost([]byte(name))
		if v != Pass && prepend != "" || len(prepend) > nameMax {
			t.Errorf("verdict %d, prefix %q", v, prepend)
		}
		host := []byte(prepend + name)
		strip, visible := m.ToGuest(host)
		if strip > len(host) || visible && strip > 0 && len(host[strip:]) == 0 {
			t.Errorf("%q loses %d bytes", host, strip)
		}
		// A map rule alone is its own inverse.
		if len(m.rules) == 2 && m.rules[0].kind == prefix && m.rules[0].key == "" && m.rules[0].scope == all &&
			name != "" && name[0] != 0 && !bytes.Equal(host[strip:], []byte(name)) {
			t.Errorf("%q comes back as %q", name, host[strip:])
		}
	})
}
