package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// logSpec is what RUST_LOG says about this program's messages.
type logSpec struct {
	level string         // one of share.LogLevels
	only  *regexp.Regexp // nil, or what a message must match to be written
	bad   []string       // parts that make no sense
}

// logTargets are the names that RUST_LOG can have for this program. All its messages
// have one target, for every package.
var logTargets = []string{"virtiofsd", "govirtiofsd"}

// parseRustLog reads the language of env_logger, from which virtiofsd has RUST_LOG:
// "warn", "virtiofsd=debug,warn" or "info/pattern". A directive is for all targets
// that begin with its name, and the longest name wins. A target without a directive
// logs nothing. An empty value means errors only.
func parseRustLog(s string) logSpec {
	spec := logSpec{level: "off"}
	directives, pattern, hasPattern := strings.Cut(s, "/")
	if strings.Contains(pattern, "/") {
		return logSpec{level: "error", bad: []string{s}}
	}
	if hasPattern {
		only, err := regexp.Compile(pattern)
		if err != nil {
			spec.bad = append(spec.bad, pattern)
		}
		spec.only = only
	}
	longest, any := -1, false
	for d := range strings.SplitSeq(directives, ",") {
		d = strings.TrimSpace(d)
		if d == "" {
			continue
		}
		name, level, ok := logDirective(d)
		if !ok {
			spec.bad = append(spec.bad, d)
			continue
		}
		any = true
		if len(name) >= longest && isOurTarget(name) {
			longest, spec.level = len(name), level
		}
	}
	if !any {
		spec.level = "error"
	}
	return spec
}

// logDirective splits LEVEL, NAME or NAME=LEVEL; a name alone is for everything.
func logDirective(d string) (name, level string, ok bool) {
	name, level, hasLevel := strings.Cut(d, "=")
	name, level = strings.TrimSpace(name), strings.ToLower(strings.TrimSpace(level))
	switch {
	case hasLevel && level == "":
		return name, "trace", true
	case hasLevel:
		return name, level, slices.Contains(share.LogLevels, level)
	case slices.Contains(share.LogLevels, strings.ToLower(name)):
		return "", strings.ToLower(name), true
	}
	return name, "trace", true
}

func isOurTarget(prefix string) bool {
	return slices.ContainsFunc(logTargets, func(t string) bool { return strings.HasPrefix(t, prefix) })
}
