// Package version returns the version of a program, however it was built: "make" passes
// it to the linker, and "go build" and "go install" store it in the program.
package version

import (
	"regexp"
	"runtime/debug"
	"strings"
)

// Next is the version under development. packaging/version.sh reads it from here.
const Next = "0.3.0-dev"

// String is the version, in the form of semver.org without a "v". linked is the version
// that the linker was given.
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

// of is the version of a program whose linker was not given one.
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
