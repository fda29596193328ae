// Package xattrmap translates names of extended attributes between a guest and the
// host's files, by rules in the language of virtiofsd's --xattrmap:
//
//	:TYPE:SCOPE:KEY:PREPEND:
//	:map:KEY:PREPEND:
//
// A rule's first character is its separator, blanks and line ends may stand between
// rules. KEY is compared with the beginning of names that come from the guest,
// PREPEND with the beginning of names that are listed on the host; scopes are client,
// server and all. The first rule that matches says what happens:
//
//	prefix       the host's name is PREPEND and the guest's name
//	ok           both have the same name
//	bad          the guest can't use the name (EPERM) and does not see it
//	unsupported  the same with EOPNOTSUPP
//
// A map rule stands last and is short for the rules that move KEY to PREPEND, keep the
// guest away from PREPEND and leave all other names as they are; without a KEY, for
// those that move all names and hide the rest.
package xattrmap

import "strings"

// Verdict says what becomes of a name that the guest uses.
type Verdict uint8

// Pass is to use the host's name; Deny is EPERM, Unsupported EOPNOTSUPP.
const (
	Pass Verdict = iota
	Deny
	Unsupported
)

type kind uint8

const (
	prefix kind = iota
	ok
	bad
	unsupported
)

type scope uint8

const (
	client scope = 1 << iota
	server
	all = client | server
)

type rule struct {
	kind         kind
	scope        scope
	key, prepend string
}

// Map is a list of rules of which one matches every name. It does not change, and any
// number of goroutines may use it.
type Map struct{ rules []rule }

// ToHost maps a name that the guest uses, with or without its NUL. The host's name is
// prepend and the guest's name when the verdict is Pass; it may be longer than names
// can be.
func (m *Map) ToHost(name []byte) (prepend string, v Verdict) {
	for i := range m.rules {
		r := &m.rules[i]
		if r.scope&client == 0 || !hasPrefix(name, r.key) {
			continue
		}
		switch r.kind {
		case prefix:
			return r.prepend, Pass
		case ok:
			return "", Pass
		case unsupported:
			return "", Unsupported
		}
		return "", Deny
	}
	return "", Deny // Parse has made sure that some rule matches
}

// ToGuest maps a name that is listed on the host: the guest's name is what follows the
// first strip bytes. A name of which nothing is left is hidden: Linux refuses a whole
// list for an empty name (fs/fuse/xattr.c: fuse_verify_xattr_list).
func (m *Map) ToGuest(name []byte) (strip int, visible bool) {
	for i := range m.rules {
		r := &m.rules[i]
		if r.scope&server == 0 || !hasPrefix(name, r.prepend) {
			continue
		}
		switch r.kind {
		case prefix:
			rest := name[len(r.prepend):]
			return len(r.prepend), len(rest) > 0 && rest[0] != 0
		case ok:
			return 0, true
		}
		return 0, false
	}
	return 0, false
}

// Uses reports whether the map stores attributes of the guest under names that begin
// with namespace ("trusted.", say) and that the guest itself calls otherwise.
func (m *Map) Uses(namespace string) bool {
	for i := range m.rules {
		r := &m.rules[i]
		if r.kind == prefix && r.scope&client != 0 && strings.HasPrefix(r.prepend, namespace) {
			return true
		}
	}
	return false
}

// hasPrefix is bytes.HasPrefix with a string.
func hasPrefix(b []byte, p string) bool { return len(b) >= len(p) && string(b[:len(p)]) == p }
