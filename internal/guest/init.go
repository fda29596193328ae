package guest

import (
	_ "embed"
	"fmt"
	"sort"
	"strings"
)

//go:embed init.sh
var initBody string

// initVars are the variables that init.sh describes.
type initVars struct {
	kind        string
	interpreter string
	busybox     string
	modules     string
	script      string
	state       string
	hostdir     string
	ports       string
}

// initScript returns the first program of a guest with options o.
func initScript(v initVars, o *Options) string {
	interactive := ""
	if o.Interactive {
		interactive = "yes"
	}
	var mounted []string
	for _, s := range o.Shares {
		if !s.NoMount && s.Tag != o.RootShare {
			mounted = append(mounted, s.Tag)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#!%s\n", v.interpreter)
	for _, e := range [][2]string{
		{"kind", v.kind},
		{"bb", v.busybox},
		{"modules", v.modules},
		{"shares", strings.Join(mounted, " ")},
		{"options", o.MountOptions},
		{"root", o.RootShare},
		{"script", v.script},
		{"interactive", interactive},
		{"state", v.state},
		{"hostdir", v.hostdir},
		{"ports", v.ports},
		{"links", links(o.Files)},
	} {
		fmt.Fprintf(&b, "%s=%s\n", e[0], shellQuote(e[1]))
	}
	b.WriteString(initBody)
	return b.String()
}

// links returns the files as lines for init.sh.
func links(files map[string]string) string {
	var lines []string
	for from, to := range files {
		lines = append(lines, from+" "+to+"\n")
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// shellQuote returns s as one word of a shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
