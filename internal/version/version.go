// Package version says which version a program is, however it was built: by "make", which
// tells the linker, or by "go build" and "go install", which leave it in the program.
package version

import (
	"regexp"
	"runtime/debug"
	"strings"
)

// Next is the version that is being worked on. packaging/version.sh reads it from here.
const Next = "0.2.0-dev"

// String is the version, in the form of semver.org without a "v". linked is what the linker
// was told.
func String(linked string) string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Next
	}
	return of(info)
}

// pseudo is what Go calls a commit that has no tag (https://go.dev/ref/mod#pseudo-versions).
const pseudo = `^v\d+\.\d+\.\d+-(?:.*\.)?\d{14}-([0-9a-f]{9})[0-9a-f]*$`

// of is the version of a program that the linker was not told about.
func of(info *debug.BuildInfo) string {
	v, dirty := strings.CutSuffix(info.Main.Version, "+dirty")
	switch commit := regexp.MustCompile(pseudo).FindStringSubmatch(v); {
	case v == "" || v == "(devel)":
		v = Next
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 9:
				v += ".g" + s.Value[:9]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = true
			}
		}
	case commit != nil:
		v = Next + ".g" + commit[1]
	default:
		v = strings.TrimPrefix(v, "v")
	}
	if dirty {
		v += "+dirty"
	}
	return v
}
