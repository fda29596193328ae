package version

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	for _, c := range []struct {
		main     string
		settings []debug.BuildSetting
		want     string
	}{
		{"v1.2.3", nil, "1.2.3"},
		{"v1.2.3-rc.1", nil, "1.2.3-rc.1"},
		{"v1.2.3+dirty", nil, "1.2.3+dirty"},
		{"v0.0.0-20261121104455-0123456789ab", nil, Next + ".g012345678"},
		{"v0.1.1-0.20261121104455-0123456789ab+dirty", nil, Next + ".g012345678+dirty"},
		{"(devel)", nil, Next},
		{"", nil, Next},
		{"(devel)", []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}, Next + ".g012345678+dirty"},
		{"(devel)", []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "false"}}, Next + ".g012345678"},
	} {
		if got := of(&debug.BuildInfo{Main: debug.Module{Version: c.main}, Settings: c.settings}); got != c.want {
			t.Errorf("%q %v: %q, want %q", c.main, c.settings, got, c.want)
		}
	}
	if got := String("4.5.6"); got != "4.5.6" {
		t.Errorf("%q, want what the linker was told", got)
	}
}
