package xattrmap

import (
	"fmt"
	"slices"
	"strings"
)

// preset is a list of rules for a purpose, without the one that ends a map.
type preset struct {
	name, rules string
	last        bool // its rules leave no name to others
}

// presets, in the order in which they are combined: the labels of "selinux" are in a
// part of trusted, which "overlayfs" would move.
var presets = []preset{
	// The guest's labels, apart from those of a host with SELinux. Attributes of the
	// namespace trusted can be on every kind of file, those of user can't.
	{name: "selinux", rules: `:prefix:all:security.selinux:trusted.virtiofs.:
		:bad:client:trusted.virtiofs.:: :bad:server::security.selinux:`},
	// Labels without privileges on the host, on files and directories.
	{name: "selinux-user", rules: `:prefix:client:security.selinux:user.virtiofs.:
		:prefix:server::user.virtiofs.: :bad:client:user.virtiofs.:: :bad:server::security.selinux:`},
	// No labels in the guest at all, whatever the host has.
	{name: "no-selinux", rules: `:unsupported:all:security.selinux:security.selinux:`},
	// What an overlay writes to its upper directory. The host's own overlays keep theirs.
	{name: "overlayfs", rules: `:prefix:client:trusted.:user.virtiofs.:
		:prefix:server::user.virtiofs.: :bad:client:user.virtiofs.:: :bad:server::trusted.:`},
	// Everything apart: nothing that a guest writes means anything to the host.
	{name: "separate", rules: `:map::user.virtiofs.:`, last: true},
}

// Presets are the names that Preset knows.
func Presets() []string {
	var names []string
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

// Preset returns the map for a list of names, with commas between them, in any case.
func Preset(list string) (*Map, error) {
	rules, err := PresetRules(list)
	if err != nil {
		return nil, err
	}
	return Parse(rules)
}

// PresetRules returns the rules of Preset.
func PresetRules(list string) (string, error) {
	words := strings.Split(strings.ToLower(list), ",")
	for _, w := range words {
		if !slices.Contains(Presets(), w) {
			return "", fmt.Errorf("unknown preset %q: want %s", w, strings.Join(Presets(), ", "))
		}
	}
	var labels []string
	var rules strings.Builder
	for _, p := range presets {
		if !slices.Contains(words, p.name) {
			continue
		}
		if p.last && len(words) > 1 {
			return "", fmt.Errorf("preset %q is about all names: it can't be with others", p.name)
		}
		if strings.Contains(p.name, "selinux") {
			labels = append(labels, p.name)
		}
		rules.WriteString(strings.Join(strings.Fields(p.rules), " ") + " ")
		if p.last {
			return strings.TrimSpace(rules.String()), nil
		}
	}
	if len(labels) > 1 {
		return "", fmt.Errorf("presets %s exclude each other", strings.Join(labels, " and "))
	}
	return rules.String() + ":ok:all:::", nil
}
