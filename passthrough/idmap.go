package passthrough

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// noID is (uid_t)-1 and (gid_t)-1: no id, in all calls of Linux.
const noID = ^uint32(0)

// IDRuleKind says in which direction an IDRule translates, and how.
type IDRuleKind int

// The kinds of rules. A squash maps all ids of a range to one, the others map a range
// to another one of the same length.
const (
	IDGuest       IDRuleKind = iota // guest to host
	IDHost                          // host to guest
	IDSquashGuest                   // guest to host, all to one
	IDSquashHost                    // host to guest, all to one
	IDForbidGuest                   // the guest may make nothing with these ids
	IDMapBoth                       // guest to host and back
)

// idRuleNames are the words of IDRule's text form, by kind.
var idRuleNames = [...]string{"guest", "host", "squash-guest", "squash-host", "forbid-guest", "map"}

// IDRule translates Count ids from From on to those from To on, where From is on the
// guest's side unless Kind says otherwise. With a Count of 0 it says nothing.
type IDRule struct {
	Kind            IDRuleKind
	From, To, Count uint32
}

// ParseIDRule reads "KIND:FROM:TO:COUNT", or "forbid-guest:FROM:COUNT", with KIND in
// any case.
func ParseIDRule(s string) (IDRule, error) {
	word, rest, _ := strings.Cut(s, ":")
	kind := slices.Index(idRuleNames[:], strings.ToLower(word))
	if kind < 0 {
		return IDRule{}, fmt.Errorf("id rule %q: %q is not one of %s", s, word, strings.Join(idRuleNames[:], ", "))
	}
	r := IDRule{Kind: IDRuleKind(kind)}
	numbers, form := []*uint32{&r.From, &r.To, &r.Count}, "FROM:TO:COUNT"
	if r.Kind == IDForbidGuest {
		numbers, form = []*uint32{&r.From, &r.Count}, "FROM:COUNT"
	}
	fields := strings.Split(rest, ":")
	if len(fields) != len(numbers) {
		return IDRule{}, fmt.Errorf("id rule %q: want %s:%s", s, idRuleNames[kind], form)
	}
	for i, f := range fields {
		v, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return IDRule{}, fmt.Errorf("id rule %q: %q is not a number from 0 to 4294967295", s, f)
		}
		*numbers[i] = uint32(v)
	}
	return r, r.check()
}

// check refuses rules that would translate an id to one that is none: the largest
// number means "no id" everywhere, and beyond it numbers start at 0 again, which is
// root.
func (r IDRule) check() error {
	last := func(first uint32) uint64 { return uint64(first) + uint64(r.Count) - 1 }
	switch {
	case r.Count == 0 || r.Kind == IDForbidGuest:
		return nil
	case r.Kind == IDSquashGuest || r.Kind == IDSquashHost:
		if r.To == noID {
			return fmt.Errorf("id rule %q: %d is not an id", r, r.To)
		}
	case last(r.From) >= uint64(noID) || last(r.To) >= uint64(noID):
		return fmt.Errorf("id rule %q: a range ends above %d", r, noID-1)
	}
	return nil
}

// String is the form that ParseIDRule reads.
func (r IDRule) String() string {
	if r.Kind == IDForbidGuest {
		return fmt.Sprintf("%s:%d:%d", idRuleNames[r.Kind], r.From, r.Count)
	}
	return fmt.Sprintf("%s:%d:%d:%d", idRuleNames[r.Kind], r.From, r.To, r.Count)
}

// IDMap translates user or group ids between guest and host. An id that no rule
// covers stays what it is. A nil *IDMap translates nothing. It does not change, so any
// number of threads may use it.
type IDMap struct {
	toHost, toGuest []idRange
}

// idRange is a range of ids, first to last, and what happens to them.
type idRange struct {
	first, last uint32
	to          uint32
	squash      bool // all become to
	forbidden   bool
	rule        IDRule
}

// NewIDMap returns the translation that the rules make, nil if there are none. Ranges
// of one direction may not overlap.
func NewIDMap(rules []IDRule) (*IDMap, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	m := &IDMap{}
	for _, r := range rules {
		if err := r.check(); err != nil {
			return nil, err
		}
		if r.Count == 0 {
			continue
		}
		last := uint32(min(uint64(r.From)+uint64(r.Count)-1, uint64(noID)))
		g := idRange{first: r.From, last: last, to: r.To, rule: r,
			squash: r.Kind == IDSquashGuest || r.Kind == IDSquashHost, forbidden: r.Kind == IDForbidGuest}
		if r.Kind == IDHost || r.Kind == IDSquashHost {
			m.toGuest = append(m.toGuest, g)
			continue
		}
		m.toHost = append(m.toHost, g)
		if r.Kind == IDMapBoth {
			m.toGuest = append(m.toGuest, idRange{first: r.To, last: r.To + (r.Count - 1), to: r.From, rule: r})
		}
	}
	if err := sortRanges(m.toHost, "guest"); err != nil {
		return nil, err
	}
	return m, sortRanges(m.toGuest, "host")
}

// sortRanges prepares ranges for search.
func sortRanges(ranges []idRange, side string) error {
	slices.SortStableFunc(ranges, func(a, b idRange) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(ranges); i++ {
		if a, b := &ranges[i-1], &ranges[i]; b.first <= a.last {
			return fmt.Errorf("id rules %q and %q overlap: both cover %s id %d", a.rule, b.rule, side, b.first)
		}
	}
	return nil
}

// find is the range that id is in, or nil.
func find(ranges []idRange, id uint32) *idRange {
	low, high := 0, len(ranges)
	for low < high {
		if mid := int(uint(low+high) / 2); ranges[mid].last < id {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(ranges) || ranges[low].first > id {
		return nil
	}
	return &ranges[low]
}

// Host is the host's id for one of the guest's; false if the guest may not use it.
// The largest number, which is no id, stays what it is.
func (m *IDMap) Host(id uint32) (uint32, bool) {
	if m == nil || id == noID {
		return id, true
	}
	r := find(m.toHost, id)
	switch {
	case r == nil:
		return id, true
	case r.forbidden:
		return noID, false
	case r.squash:
		return r.to, true
	}
	return r.to + (id - r.first), true
}

// Guest is the guest's id for one of the host's.
func (m *IDMap) Guest(id uint32) uint32 {
	if m == nil {
		return id
	}
	return m.search(id)
}

func (m *IDMap) search(id uint32) uint32 {
	r := find(m.toGuest, id)
	switch {
	case r == nil:
		return id
	case r.squash:
		return r.to
	}
	return r.to + (id - r.first)
}
