package xattrmap

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// nameMax is how long a name can be (XATTR_NAME_MAX).
const nameMax = 255

// blanks may stand between rules.
const blanks = " \t\n\v\f\r"

// Parse reads rules. Errors say which rule is wrong, at which byte of the text, and
// what would be right.
func Parse(text string) (*Map, error) {
	p := &parser{text: text, rest: text}
	m := &Map{}
	mapAt := 0 // number of the map rule
	for p.next() {
		if mapAt != 0 {
			return nil, p.errorf(p.start, "rule %d is a map rule, which must be the last: write out what it is short for, or leave out what follows", mapAt)
		}
		rules, isMap, err := p.rule()
		if err != nil {
			return nil, err
		}
		if isMap {
			mapAt = p.number
		}
		m.rules = append(m.rules, rules...)
	}
	if len(m.rules) == 0 {
		return nil, fmt.Errorf("no rules: %q would leave all names as they are", ":ok:all:::")
	}
	if err := m.complete(); err != nil {
		return nil, err
	}
	return m, nil
}

// complete checks that every name has a rule, in both directions.
func (m *Map) complete() error {
	var covered scope
	for _, r := range m.rules {
		if r.key == "" {
			covered |= r.scope & client
		}
		if r.prepend == "" {
			covered |= r.scope & server
		}
	}
	from := map[scope]string{0: "the guest and on the host", server: "the guest", client: "the host"}[covered]
	if from == "" {
		return nil
	}
	s := map[scope]string{0: "all", server: "client", client: "server"}[covered]
	return fmt.Errorf("the rules leave names from %s without a rule: end with \":ok:%s:::\" to let them through or \":bad:%s:::\" to hide them", from, s, s)
}

// parser is at some place in the text of a map.
type parser struct {
	text, rest string
	number     int    // of the rule, from 1
	start      int    // offset of the rule
	separator  string // one character
}

func (p *parser) offset() int { return len(p.text) - len(p.rest) }

func (p *parser) errorf(at int, format string, args ...any) error {
	return fmt.Errorf("rule %d, at byte %d: "+format, append([]any{p.number, at + 1}, args...)...)
}

// next goes to the next rule and takes its separator.
func (p *parser) next() bool {
	p.rest = strings.TrimLeft(p.rest, blanks)
	if p.rest == "" {
		return false
	}
	p.number++
	p.start = p.offset()
	_, n := utf8.DecodeRuneInString(p.rest) // n is 1 for what is no UTF-8
	p.separator, p.rest = p.rest[:n], p.rest[n:]
	return true
}

// field takes what goes up to the next separator.
func (p *parser) field(name string) (string, error) {
	value, rest, found := strings.Cut(p.rest, p.separator)
	if c := p.separator[0]; !found && ('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z') {
		return "", p.errorf(p.start, "a rule begins with the character that separates its fields, which is not meant to be %q: "+
			"write :TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:", p.separator)
	}
	if !found {
		return "", p.errorf(p.offset(), "%s has no %q after it: a rule is %s or %s", name, p.separator,
			p.example("TYPE", "SCOPE", "KEY", "PREPEND"), p.example("map", "KEY", "PREPEND"))
	}
	p.rest = rest
	return value, nil
}

// example is a rule with the separator of this one.
func (p *parser) example(fields ...string) string {
	return p.separator + strings.Join(fields, p.separator) + p.separator
}

var kinds = map[string]kind{"prefix": prefix, "ok": ok, "bad": bad, "unsupported": unsupported}

var scopes = map[string]scope{"client": client, "server": server, "all": all}

// rule reads the fields of one rule; a map rule is several.
func (p *parser) rule() (rules []rule, isMap bool, err error) {
	at := p.offset()
	word, err := p.field("TYPE")
	if err != nil {
		return nil, false, err
	}
	k, known := kinds[word]
	if !known && word != "map" {
		return nil, false, p.errorf(at, "unknown type %q: want prefix, ok, bad, unsupported or map", word)
	}
	s := all
	if known {
		if s, err = p.scope(); err != nil {
			return nil, false, err
		}
	}
	key, err := p.part("KEY")
	if err != nil {
		return nil, false, err
	}
	prepend, err := p.part("PREPEND")
	if err != nil {
		return nil, false, err
	}
	if !known {
		return expand(key, prepend), true, nil
	}
	return []rule{{k, s, key, prepend}}, false, nil
}

func (p *parser) scope() (scope, error) {
	at := p.offset()
	word, err := p.field("SCOPE")
	if err != nil {
		return 0, err
	}
	s, known := scopes[word]
	if !known {
		return 0, p.errorf(at, "unknown scope %q: want client, server or all", word)
	}
	return s, nil
}

// part reads a part of a name.
func (p *parser) part(name string) (string, error) {
	at := p.offset()
	s, err := p.field(name)
	switch {
	case err != nil:
		return "", err
	case len(s) > nameMax:
		return "", p.errorf(at, "%s has %d bytes: names have at most %d", name, len(s), nameMax)
	case strings.ContainsRune(s, 0):
		return "", p.errorf(at, "%s has a NUL in it: names have none", name)
	}
	return s, nil
}

// expand is what a map rule is short for.
func expand(key, prepend string) []rule {
	if key == "" {
		return []rule{{prefix, all, "", prepend}, {bad, all, "", ""}}
	}
	return []rule{{prefix, all, key, prepend}, {bad, all, prepend, key}, {ok, all, "", ""}}
}
